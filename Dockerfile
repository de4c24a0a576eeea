# The book with all that it needs, for processors and for NVIDIA GPUs:
#
#   docker build -t reprobook .
#   docker run --rm -v reprobook-cache:/cache -v "$PWD/runs:/book/runs" reprobook reprobook run stasc
#   docker run --rm -p 8888:8888 -v reprobook-cache:/cache reprobook make lab
#   docker run --rm --gpus all --shm-size 8g -v reprobook-cache:/cache reprobook reprobook doctor
#
# GPUs need only the driver and NVIDIA's container toolkit on the host: the wheel of PyTorch brings CUDA itself. For another
# build of PyTorch (processors alone, an older driver) name the index that serves it: --build-arg TORCH_INDEX=<address>.
FROM python:3.11-slim

# git names the commit in every record; make has the targets.
RUN apt-get update && apt-get install -y --no-install-recommends git make && rm -rf /var/lib/apt/lists/*

# Work is done by a user without rights; /cache is for a volume, so that downloads outlive the container.
RUN useradd --create-home reader && install -d -o reader /book /cache
USER reader
WORKDIR /book
ENV REPROBOOK_CACHE=/cache/reprobook HF_HOME=/cache/huggingface PATH=/book/.venv/bin:$PATH

# The packages first: an edit of the book does not install them again. pip prefers a local build (+cpu) of the same version.
ARG TORCH_INDEX=
COPY --chown=reader requirements.lock ./
RUN python -m venv .venv && PIP_EXTRA_INDEX_URL=$TORCH_INDEX .venv/bin/pip install --no-cache-dir -r requirements.lock

# With .git, from which records take their commit.
COPY --chown=reader . ./
RUN make setup

# JupyterLab answers beyond the container; its token stays in force.
RUN install -d ~/.jupyter && echo 'c.ServerApp.ip = "0.0.0.0"' > ~/.jupyter/jupyter_server_config.py
EXPOSE 8888
CMD ["make", "help"]
