"""A tiny generated data set in the layout of ScanNet or MegaDepth: it shows the layout, and tests the readers."""

from __future__ import annotations

from pathlib import Path

import cv2
import h5py
import numpy as np

from reprobook.errors import ReprobookError
from reprobook.papers.mc_diffusion_ransac import geometry as g

Array = np.ndarray
SIZES = {"scannet": (640, 480), "megadepth": (320, 240)}


def view_pair(size: tuple[int, int], rng: np.random.Generator) -> tuple[list[Array], list[Array], Array, Array, Array]:
    """Two exact views of one textured plane: pictures, depth maps (m), K, R, t with X' = R X + t."""
    W, H = size
    K = np.array([[0.9 * W, 0, W / 2], [0, 0.9 * W, H / 2], [0, 0, 1]])
    R = g.rotation(rng.standard_normal(3), np.radians(rng.uniform(3, 10)))
    t = rng.uniform(-0.25, 0.25, 3)
    normal, distance = np.array([*rng.uniform(-0.3, 0.3, 2), 1.0]), rng.uniform(2, 3)  # normal . X = distance
    texture = sum(
        cv2.resize(rng.normal(0, 1, (H // s, W // s)).astype(np.float32), size, interpolation=cv2.INTER_CUBIC)
        for s in (4, 8, 16)
    )
    first = np.clip(128 + 40 * texture, 0, 255).astype(np.uint8)
    to_second = K @ (R + np.outer(t, normal) / distance) @ np.linalg.inv(K)
    second = cv2.warpPerspective(first, to_second, size, flags=cv2.INTER_LINEAR)
    rays = g.homogeneous(np.stack(np.meshgrid(np.arange(W), np.arange(H)), -1).astype(np.float64)) @ np.linalg.inv(K).T
    turned = R @ normal
    depths = [distance / (rays @ normal), (distance + turned @ t) / (rays @ turned)]
    return [first, second], depths, K, R, t


def write_miniature(kind: str, folder: Path, n_pairs: int = 2, seed: int = 0) -> Path:
    """Write ``n_pairs`` train and test pairs of ``kind`` below ``folder``; returns the folder."""
    if kind not in SIZES:
        raise ReprobookError(f"data set {kind!r} must be one of {', '.join(SIZES)}")
    rng, intrinsics = np.random.default_rng([seed, len(kind)]), {}
    for split, base in (("train", 0), ("test", 700)):
        (folder / "index" / split).mkdir(parents=True, exist_ok=True)
        write = _scannet if kind == "scannet" else _megadepth
        write(folder, split, [view_pair(SIZES[kind], rng) for _ in range(n_pairs)], base, intrinsics)
    if intrinsics:
        np.savez(folder / "index" / "intrinsics.npz", **intrinsics)
    return folder


def _scannet(folder: Path, split: str, pairs: list, base: int, intrinsics: dict[str, Array]) -> None:
    names = []
    for i, (pictures, depths, K, R, t) in enumerate(pairs):
        scene = f"scene{base + i:04d}_00"
        world = [np.eye(4), np.eye(4)]
        world[1][:3] = np.column_stack([R, t])
        for name in ("color", "depth", "pose"):
            (folder / scene / name).mkdir(parents=True, exist_ok=True)
        for frame, picture, depth, pose in zip((0, 15), pictures, depths, world, strict=True):
            cv2.imwrite(str(folder / scene / "color" / f"{frame}.jpg"), picture)
            cv2.imwrite(str(folder / scene / "depth" / f"{frame}.png"), np.round(depth * 1000).astype(np.uint16))
            np.savetxt(folder / scene / "pose" / f"{frame}.txt", np.linalg.inv(pose))  # camera to world
        names.append([base + i, 0, 0, 15])
        intrinsics[scene] = K
    np.savez(folder / "index" / split / "pairs.npz", name=np.array(names))


def _megadepth(folder: Path, split: str, pairs: list, base: int, intrinsics: dict[str, Array]) -> None:  # noqa: ARG001
    images, maps, Ks, poses, infos = [], [], [], [], []
    (folder / split).mkdir(exist_ok=True)
    for i, (pictures, depths, K, R, t) in enumerate(pairs):
        motion = np.eye(4)
        motion[:3] = np.column_stack([R, t])
        for k, (picture, depth, pose) in enumerate(zip(pictures, depths, (np.eye(4), motion), strict=True)):
            images.append(f"{split}/{i}_{k}.png")
            maps.append(f"{split}/{i}_{k}.h5")
            cv2.imwrite(str(folder / images[-1]), picture)
            with h5py.File(folder / maps[-1], "w") as file:
                file["depth"] = depth.astype(np.float32)
            Ks.append(K)
            poses.append(pose)
        infos.append(((2 * i, 2 * i + 1), 0.5, np.zeros((0, 4))))
    held = np.empty(len(infos), dtype=object)  # pickled, as LoFTR's files are
    held[:] = infos
    np.savez(
        folder / "index" / split / f"{base:04d}_0.1_0.3.npz", image_paths=np.array(images, dtype=object),
        depth_paths=np.array(maps, dtype=object), intrinsics=np.array(Ks), poses=np.array(poses), pair_infos=held,
    )  # fmt: skip
