"""ScanNet and MegaDepth as LoFTR lays them out: index files, pictures, depth, poses; true matches from depth.

Both data sets have to be asked for (ScanNet) or fetched (MegaDepth) by the reader; a parameter names the folder:

- ``<folder>/index/{train,test}/*.npz``: LoFTR's index files. ScanNet: ``name`` (n, 4) = scene, sub-scene, two frames;
  beside them ``<folder>/index/intrinsics.npz``. MegaDepth: ``image_paths, depth_paths, intrinsics, poses, pair_infos``.
- ScanNet: ``<folder>/scene0707_00/{color/15.jpg, depth/15.png (mm), pose/15.txt (camera to world)}``.
- MegaDepth: the index's own paths below ``<folder>``; depth is the array ``depth`` of an HDF5 file.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import cv2
import h5py
import numpy as np

from reprobook.errors import ReprobookError
from reprobook.papers.mc_diffusion_ransac import geometry as g

Array = np.ndarray
KINDS = ("scannet", "megadepth")
SCANNET_SIZE = (640, 480)  # LoFTR resizes ScanNet's colour images to the size of its depth images
DEPTH_GAP = 0.05  # of the depth: a point farther from the other depth map is hidden


@dataclass(frozen=True)
class Entry:
    """One image pair: pictures, depth maps, K (2, 3, 3) of the size that :func:`load` gives, R, t (metres)."""

    pictures: tuple[Path, Path]
    depths: tuple[Path, Path]
    K: Array
    R: Array
    t: Array
    size: tuple[int, int] | None = None  # (W, H) to resize to; None: as stored


@dataclass(frozen=True)
class Loaded:
    """Grey pictures, depth maps (0: unknown) of the same size, sizes (2, 2) and K (2, 3, 3)."""

    pictures: tuple[Array, Array]
    depths: tuple[Array, Array]
    sizes: Array
    K: Array


class _ArraysOnly(pickle.Unpickler):
    """LoFTR's index files hold pickled object arrays: nothing but numpy's own constructors may be called."""

    ALLOWED: ClassVar = {
        ("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct"),
        ("numpy.core.multiarray", "scalar"), ("numpy._core.multiarray", "scalar"), ("numpy", "ndarray"),
        ("numpy", "dtype"), ("_codecs", "encode"),
    }  # fmt: skip

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in self.ALLOWED:
            raise ReprobookError(f"an index file wants to call {module}.{name}; only arrays are read from it")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def read_index(path: str | Path) -> dict[str, Array]:
    """All arrays of an ``.npz`` file. Object arrays are unpickled by a reader that knows arrays only."""
    out = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            stream = io.BytesIO(archive.read(member))
            version = np.lib.format.read_magic(stream)
            read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
            _, _, dtype = read(stream)
            if dtype.hasobject:
                out[member.removesuffix(".npy")] = _ArraysOnly(stream).load()
            else:
                stream.seek(0)
                out[member.removesuffix(".npy")] = np.load(stream, allow_pickle=False)
    return out


def entries(kind: str, folder: str | Path, split: str) -> list[Entry]:
    """The pairs of ``split`` ("train" or "test"). Raises :class:`ReprobookError`: what is missing, and what to do."""
    if kind not in KINDS:
        raise ReprobookError(f"data set {kind!r} must be one of {', '.join(KINDS)}")
    if not str(folder):
        raise ReprobookError(
            f"{kind}_dir is empty: ask for {kind} (its licence forbids passing it on), lay it out as LoFTR does, and "
            f"set {kind}_dir to that folder"
        )
    folder = Path(folder).expanduser()
    files = sorted((folder / "index" / split).glob("*.npz"))
    if not files:
        raise ReprobookError(f"{kind}_dir: no index/{split}/*.npz below it; copy LoFTR's index files there")
    read = _scannet if kind == "scannet" else _megadepth
    return list(read(folder, files))


def _scannet(folder: Path, files: list[Path]) -> Iterator[Entry]:
    intrinsics = read_index(folder / "index" / "intrinsics.npz")
    for file in files:
        for scene, sub, *frames in read_index(file)["name"].astype(int):
            place = f"scene{scene:04d}_{sub:02d}"
            K = np.asarray(intrinsics[place], dtype=np.float64)[:3, :3]
            poses = [np.linalg.inv(np.loadtxt(folder / place / "pose" / f"{frame}.txt")) for frame in frames]
            motion = poses[1] @ np.linalg.inv(poses[0])
            first, second = (
                (folder / place / "color" / f"{frame}.jpg", folder / place / "depth" / f"{frame}.png")
                for frame in frames
            )
            yield Entry(
                (first[0], second[0]), (first[1], second[1]), np.stack([K, K]), motion[:3, :3], motion[:3, 3],
                SCANNET_SIZE,
            )  # fmt: skip


def _megadepth(folder: Path, files: list[Path]) -> Iterator[Entry]:
    for file in files:
        index = read_index(file)
        for pair in index["pair_infos"]:
            i, j = (int(k) for k in pair[0])
            poses = [np.asarray(index["poses"][k], dtype=np.float64) for k in (i, j)]  # world to camera
            motion = poses[1] @ np.linalg.inv(poses[0])
            K = np.stack([np.asarray(index["intrinsics"][k], dtype=np.float64) for k in (i, j)])
            names = ("image_paths", "depth_paths")
            pictures, depths = ((folder / index[name][i], folder / index[name][j]) for name in names)
            yield Entry(pictures, depths, K, motion[:3, :3], motion[:3, 3])


def read_depth(path: str | Path) -> Array:
    """Depth in metres (H, W), 0 where unknown: a 16-bit PNG in millimetres or an HDF5 file with ``depth``."""
    path = Path(path)
    if path.suffix == ".h5":
        with h5py.File(path) as file:
            return np.asarray(file["depth"], dtype=np.float64)
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if image is None or image.dtype != np.uint16:
        raise ReprobookError(f"{path.name} is missing or no 16-bit depth image")
    return image / 1000.0


def load(entry: Entry, longest: int = 0) -> Loaded:
    """Read a pair; ``longest`` > 0 shrinks pictures, depth and K to that longer side (MegaDepth)."""
    pictures, depths, sizes, Ks = [], [], [], []
    for picture, depth, K in zip(entry.pictures, entry.depths, entry.K, strict=True):
        image = cv2.imread(str(picture), cv2.IMREAD_GRAYSCALE)
        if image is None:
            raise ReprobookError(f"{picture.name} is missing or no picture")
        h, w = image.shape
        if entry.size:
            size, K = entry.size, K.copy()  # ScanNet's K belongs to the size of its depth images already
        else:
            scale = min(1.0, longest / max(h, w)) if longest else 1.0
            size = (round(w * scale), round(h * scale))
            K = np.diag([size[0] / w, size[1] / h, 1.0]) @ K
        pictures.append(cv2.resize(image, size, interpolation=cv2.INTER_AREA))
        depths.append(cv2.resize(read_depth(depth), size, interpolation=cv2.INTER_NEAREST))
        sizes.append(size)
        Ks.append(K)
    return Loaded((pictures[0], pictures[1]), (depths[0], depths[1]), np.array(sizes, dtype=np.float64), np.stack(Ks))


def true_matches(pair: Loaded, R: Array, t: Array, n: int, rng: np.random.Generator, cycle_px: float = 1.5) -> Array:
    """Up to ``n`` true correspondences (m, 4) in pixels, by depth reprojection with a cycle check.

    A random pixel of image 1 goes to image 2 by its depth; there the depth map must agree within 5 %, and going back by
    that depth must end within ``cycle_px`` of the start.
    """
    (d1, d2), (K1, K2) = pair.depths, pair.K
    ys, xs = np.nonzero(d1 > 0)
    chosen = rng.permutation(len(xs))[: 20 * n]
    start = np.stack([xs[chosen], ys[chosen]], axis=-1).astype(np.float64)
    second, z2 = _project(start, d1[ys[chosen], xs[chosen]], K1, K2, R, t)
    near = np.round(second).astype(int)
    inside = (near >= 0).all(-1) & (near < pair.sizes[1]).all(-1) & (z2 > 0)
    near = np.where(inside[:, None], near, 0)
    seen = d2[near[:, 1], near[:, 0]]
    back, _ = _project(second, np.where(seen > 0, seen, 1), K2, K1, R.T, -R.T @ t)
    good = inside & (seen > 0) & (np.abs(seen - z2) < DEPTH_GAP * z2)
    good &= np.linalg.norm(back - start, axis=-1) < cycle_px
    good &= ((second >= 0) & (second < pair.sizes[1])).all(-1)
    return np.concatenate([start, second], axis=-1)[good][:n]


def _project(points: Array, depth: Array, K: Array, K_to: Array, R: Array, t: Array) -> tuple[Array, Array]:
    """Pixels with depth -> pixels and depth in the other camera."""
    X = g.homogeneous(points) @ np.linalg.inv(K).T * depth[:, None] @ R.T + t
    with np.errstate(divide="ignore", invalid="ignore"):
        x = X @ K_to.T
        return np.nan_to_num(x[:, :2] / x[:, 2:], nan=-1e6, posinf=-1e6, neginf=-1e6), X[:, 2]
