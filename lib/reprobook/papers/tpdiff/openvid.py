"""OpenVid-1M as the paper uses it: the choice of clips by their scores, frames out of its zip files, a miniature."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from reprobook.errors import ReprobookError

if TYPE_CHECKING:
    from torch import Tensor

TABLE = "data/train/OpenVid-1M.csv"
MOTION, LOOKS = "motion score", "aesthetic score"


def chosen(table: pd.DataFrame, both: float = 0.2, one: float = 0.03) -> pd.DataFrame:
    """Rows in the top 20 % of motion AND of looks, or in the top 3 % of at least one (Section 4.1)."""
    missing = [name for name in ("video", "caption", MOTION, LOOKS) if name not in table]
    if missing:
        raise ReprobookError(f"OpenVid's table has no column {missing[0]!r}; columns: {', '.join(table)}")
    rank = table[[MOTION, LOOKS]].rank(pct=True, ascending=False)  # 0 is best
    return table[(rank <= both).all(axis=1) | (rank <= one).any(axis=1)]


@dataclass(frozen=True)
class VideoFile:
    """One clip inside a zip file, with its caption."""

    archive: Path
    name: str
    caption: str

    def frames(self, n_frames: int, size: Sequence[int], fps: float) -> Tensor:
        """The first ``n_frames`` at ``fps`` as (T, 3, H, W) in [-1, 1], scaled to cover ``size`` and cut in the middle.

        Raises :class:`ReprobookError` if the clip is too short.
        """
        with zipfile.ZipFile(self.archive) as archive:
            content = archive.read(self.name)
        picked = [image for _, image in zip(range(n_frames), _decode(content, size, fps), strict=False)]
        if len(picked) < n_frames:
            raise ReprobookError(f"{self.name} has {len(picked)} frames at {fps:g} a second; {n_frames} are needed")
        return torch.from_numpy(np.stack(picked)).permute(0, 3, 1, 2).float() / 127.5 - 1


def _decode(content: bytes, size: Sequence[int], fps: float) -> Iterator[np.ndarray]:
    """Frames (H, W, 3) uint8 at regular times."""
    import av

    height, width = size
    with av.open(io.BytesIO(content)) as container:
        stream = container.streams.video[0]
        scale = max(height / stream.height, width / stream.width)
        tall, wide = max(height, round(stream.height * scale)), max(width, round(stream.width * scale))
        rate = stream.average_rate
        for frame in on_clock(container.decode(stream), fps, float(1 / rate) if rate else 0.0):
            image = frame.reformat(wide, tall, format="rgb24").to_ndarray()
            top, left = (tall - height) // 2, (wide - width) // 2
            yield image[top : top + height, left : left + width]


def on_clock(frames: Iterable[Any], fps: float, step: float) -> Iterator[Any]:
    """The frames to show at 0, 1/fps, 2/fps ... seconds after the first one: the first that begins then or later.

    ``time`` of a frame: seconds from any start; None, or before the last one, means ``step`` seconds after the last
    one. Where the frames are further apart than 1/fps, the earlier one stays on until the next begins."""
    shown, start, now, k = None, None, 0.0, 0
    for frame in frames:
        expected = 0.0 if shown is None else now + step
        if frame.time is not None and start is None:
            start = frame.time - expected
        now = expected if frame.time is None or frame.time - start < now - 1e-6 else frame.time - start
        while shown is not None and (k + 1) / fps <= now + 1e-6:
            yield shown
            k += 1
        if k / fps <= now + 1e-6:
            yield frame
            k += 1
        shown = frame


def clips(folder: str | Path, n: int, seconds: float) -> list[VideoFile]:
    """The first ``n`` chosen clips of at least ``seconds`` that the fetched zip files hold, in the table's order."""
    folder = Path(folder)
    table = chosen(pd.read_csv(folder / TABLE))
    table = table[table["seconds"] >= seconds].drop_duplicates("video").set_index("video")
    places = {}
    for path in sorted(folder.glob("*.zip")):
        with zipfile.ZipFile(path) as archive:
            places.update({Path(name).name: (path, name) for name in archive.namelist() if name.endswith(".mp4")})
    found = [VideoFile(*places[v], str(caption)) for v, caption in table["caption"].items() if v in places]
    if not found:
        raise ReprobookError(f"none of the {len(table)} chosen clips is in the {len(set(places))} fetched ones")
    return found[:n]


def write_miniature(folder: Path, parts: int = 2, n: int = 20, n_frames: int = 64) -> None:
    """A table with the real columns and zip files of ``n`` short clips each: a bright square that moves."""
    rows = []
    for part in range(parts):
        with zipfile.ZipFile(folder / f"OpenVid_part{part}.zip", "w") as archive:
            for i in range(n):
                name, length = f"clip{part}-{i}.mp4", n_frames if i < 2 else 2
                archive.writestr(name, _square(length, 10 + i))
                rows.append({
                    "video": name, "caption": f"a square moves, clip {i}", LOOKS: 9.0 - i / n, MOTION: 9.0 - i / n,
                    "temporal consistency score": 0.9, "camera motion": "static", "frame": length, "fps": 24.0,
                    "seconds": length / 24,
                })  # fmt: skip
    (folder / TABLE).parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(folder / TABLE, index=False)


def _square(n_frames: int, top: int) -> bytes:
    """An MP4 file of 48 x 64 pixels in which a square moves to the right."""
    import av

    content = io.BytesIO()
    with av.open(content, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=24)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for k in range(n_frames):
            image = np.zeros((48, 64, 3), np.uint8)
            image[top : top + 16, k % 48 : k % 48 + 16] = 200
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return content.getvalue()
