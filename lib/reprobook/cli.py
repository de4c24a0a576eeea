"""The command ``reprobook``.

Exit codes: 0 all well, 1 a run or check failed, 2 a mistake in the call, 128 + n on signal n.

Everything heavy is imported by the command that needs it: ``reprobook --help`` and ``reprobook list`` answer at once.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from reprobook import __version__, project
from reprobook.errors import ReprobookError

OFFLINE_SCALES = ["smoke", "laptop"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = parser().parse_args(arguments)
    try:
        return options.command(options)
    except ReprobookError as error:
        print(f"reprobook: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader (head, less) had enough
        sys.stderr.close()
        return 0
    except KeyboardInterrupt as stopped:
        anew = " without --again" if getattr(options, "again", False) else ""
        print(f"reprobook: {str(stopped) or 'stopped'}; the same command{anew} goes on", file=sys.stderr)
        return 128 + getattr(stopped, "signal", signal.SIGINT)


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    top = argparse.ArgumentParser(prog="reprobook", description="Rerun machine-learning papers, chapter by chapter.")
    top.add_argument("--version", action="version", version=f"reprobook {__version__}")
    commands = top.add_subparsers(required=True, metavar="command")

    def add(name: str, command: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(command=command)
        return sub

    add("list", _list, "list the chapters of the book")
    _some(add("status", _status, "say which published numbers are current, stale (and why) or missing; list runs"))
    sub = add("run", _run, "run one chapter; the same run again is skipped, an interrupted one goes on")
    sub.add_argument("slug", help="the chapter, as `reprobook list` shows it")
    sub.add_argument("--scale", default="smoke", help="smoke (default), laptop or paper")
    sub.add_argument("-p", dest="overrides", action="append", default=[], metavar="NAME=VALUE", help="set a parameter")
    sub.add_argument("--again", action="store_true", help="run from the start even if this run is complete")
    sub.add_argument("--time-limit", type=float, metavar="SECONDS", help="stop the run after this time")
    sub.add_argument("--memory-limit", type=float, metavar="GB", help="stop the run if it takes more memory")
    sub.add_argument("--publish", action="store_true", help="copy the record to book/results (needs a clean checkout)")
    sub = add("show", _show, "show a run: metrics, effects, what the claims want of them, and where its files are")
    sub.add_argument("run", help="its id or the beginning of it, its folder, or the file of a record")
    sub.add_argument("--html", action="store_true", help="also write its notebook as an HTML file")
    sub = add("compare", _compare, "show two runs side by side: what was not the same, metrics, effects")
    sub.add_argument("runs", nargs=2, metavar="run", help="as of `reprobook show`")
    sub = add("prune", _prune, "list runs that nothing needs (failed, interrupted, superseded), and their bytes")
    _some(sub)
    sub.add_argument("--delete", action="store_true", help="delete them; published records always stay")
    _batch(add("batch", _run_batch, "run many runs from a plan, here or on Slurm; status, cancel, collect of its runs"))
    _data(commands.add_parser("data", help="data sets and models: list, plan, fetch, verify, table"))
    _some(add("rehearse", _rehearse, "run the paper-scale code on miniature artefacts, offline"), every=True)
    _some(add("refresh", _refresh, "execute at smoke scale and store outputs and expected metrics"), every=True)
    sub = add("portability", _portability, "compare smoke metrics under other threads and vector instructions")
    _some(sub, every=True)
    sub.add_argument("--one", action="store_true", help="only the chapter whose turn it is, under three settings")
    sub = add("neutral", _neutral, "note library changes that move no number, after smoke runs have shown it")
    _some(sub, every=True)
    sub.add_argument("--why", required=True, help="why the change can move no number")
    sub = add("verify", _verify, "run a published seed again: bit-equal, within tolerance, or what differs")
    sub.add_argument("record", help="file of a record, such as book/results/laptop/stasc.seed0.json")
    add("new", _new, "start a chapter in all rooms").add_argument("slug", choices=project.SLUGS, metavar="slug")
    _some(add("check", _check, "check notebooks, parameters, facts and manifests without running anything"))
    sub = add("doctor", _doctor, "say whether this machine is ready for the book, and for a chapter")
    sub.add_argument("slug", nargs="?", help="a chapter, whose data and paper scale are looked at too")
    sub.add_argument("--online", action="store_true", help="ask the hub about gated artefacts")
    sub = add("bench", _bench, "measure the headline ratio of each chapter, and of reading with a language model (lm)")
    sub.add_argument("slugs", nargs="*", metavar="slug", help="chapters, or lm (default: all)")
    add("pages", _pages, "write the generated pages of the book")
    return top


def _some(sub: argparse.ArgumentParser, every: bool = False) -> None:
    """Chapters as arguments; without any all of them, which costly commands want to hear (``--all``)."""
    sub.add_argument("slugs", nargs="*", metavar="slug", help="chapters" + ("" if every else " (default: all)"))
    sub.set_defaults(all=not every)
    if every:
        sub.add_argument("--all", action="store_true", help="all chapters")


def _slugs(options: argparse.Namespace) -> list[str]:
    if not options.slugs and not options.all:
        raise ReprobookError(f"name a chapter or say --all; chapters: {', '.join(project.chapters()) or 'none yet'}")
    return [project.check_slug(slug) for slug in options.slugs] or project.chapters()


def _columns(rows: Sequence[Sequence[object]]) -> None:
    """Print rows in aligned columns."""
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    for row in texts:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


# ------------------------------------------------------------------------------------------------ chapters and runs


def _list(_: argparse.Namespace) -> int:
    there = project.chapters()
    for part, slugs in project.PARTS.items():
        print(part)
        for slug in slugs:
            print(f"  {slug:24}{_title(slug) if slug in there else '(not written yet)'}")
    return 0


def _title(slug: str) -> str:
    """The paper's title, read without parsing the whole file."""
    path = project.root() / "book" / "papers" / f"{slug}.yaml"
    lines = project.read_text(path, path.name).splitlines() if path.is_file() else []
    found = next((line for line in lines if line.startswith("title:")), "")
    return found.removeprefix("title:").strip().strip("\"'")


def _status(options: argparse.Namespace) -> int:
    from reprobook.authoring.status import published, unfinished

    for slug in _slugs(options):
        for line in [*published(slug), *unfinished(slug)]:
            print(line)
    return 0


def _run(options: argparse.Namespace) -> int:
    from reprobook.authoring.publish import check_publishable, publish
    from reprobook.params import ParameterError, parse_override, resolve
    from reprobook.runs.runner import run

    project.check_packages(options.slug)
    given = [parse_override(text) for text in options.overrides]
    overrides = dict(given)
    if twice := next((name for name, _ in given if [each for each, _ in given].count(name) > 1), None):
        raise ParameterError(f"{twice!r} is given twice with -p")
    if "scale" in overrides:
        raise ParameterError("choose the scale with --scale, not with -p")
    if options.publish:
        check_publishable(options.slug, options.scale, resolve(options.slug, options.scale, overrides))
    result = run(
        options.slug,
        options.scale,
        overrides,
        again=options.again,
        time_limit=options.time_limit,
        memory_limit=options.memory_limit,
    )
    if options.publish and result.status != "failed":
        path = publish(result.record, result.folder)
        print(f"published {path.relative_to(project.root())}")
    return _report(options.slug, result)


def _report(slug: str, result: object) -> int:
    """Print how a run ended; returns the exit code."""
    from reprobook.runs.runner import RunResult

    assert isinstance(result, RunResult)
    folder = result.folder.relative_to(project.root())
    if result.status != "failed":
        found = result.record
        note = "complete" if result.status == "complete" else "complete already, skipped (--again runs it anew)"
        print(f"{slug} {result.run_id}: {note}")
        judged = f"{len(found.effects)} effects" if found.effects else f"{len(found.claims)} claims"
        print(f"  {len(found.metrics)} metrics, {judged}, {found.wall_s or 0:.0f} s; {folder}")
        return 0
    print(f"{slug} {result.run_id}: failed: {result.where}", file=sys.stderr)
    print(f"  {folder} holds the notebook, the record and log.txt, whose last lines are:", file=sys.stderr)
    for line in result.tail:
        print(f"  | {line}", file=sys.stderr)
    return 1


def _show(options: argparse.Namespace) -> int:
    from reprobook.authoring.kept import find, shown, write_page

    path = find(options.run)
    if options.html:
        write_page(path)
    return _sections(shown(path))


def _compare(options: argparse.Namespace) -> int:
    from reprobook.authoring.kept import find, side_by_side

    return _sections(side_by_side(*map(find, options.runs)))


def _sections(sections: Sequence[tuple[str, Sequence[Sequence[object]]]]) -> int:
    """Print headings with rows; one without rows is left out."""
    for k, (heading, rows) in enumerate((heading, rows) for heading, rows in sections if rows):
        print(f"{chr(10) if k else ''}{heading}")
        _columns(rows)
    return 0


def _prune(options: argparse.Namespace) -> int:
    from reprobook.authoring.kept import prunable, remove
    from reprobook.data import readable_bytes

    found = [each for slug in _slugs(options) for each in prunable(slug)]
    found = [each for each in found if not options.delete or remove(each[0])]
    if found:
        _columns([(folder.relative_to(project.root()), readable_bytes(size), why) for folder, why, size in found])
    freed = f"{len(found)} runs, {readable_bytes(sum(size for *_, size in found))}"
    print(f"{freed}: deleted" if options.delete else f"{freed}: nothing is deleted without --delete")
    return 0


def _batch(sub: argparse.ArgumentParser) -> None:
    sub.usage = "reprobook batch [status | cancel | collect] PLAN [options]"
    sub.add_argument(
        "words", nargs="+", metavar="PLAN", help="a plan file; status, cancel or collect may stand before it"
    )
    sub.add_argument("--dry-run", action="store_true", help="show runs, data and time, and start nothing")
    sub.add_argument("--backend", choices=("local", "slurm"), default="local", help="where to run (default: local)")
    sub.add_argument("--cpus", type=int, metavar="N", help="processors for local runs (default: all)")
    sub.add_argument("--print-script", action="store_true", help="print the sbatch scripts and submit nothing")
    text = "collect: a host's runs folder; may be repeated (default: this checkout's)"
    sub.add_argument("--from", dest="folders", action="append", default=[], metavar="RUNS", help=text)
    sub.add_argument("--replace", action="store_true", help="collect: let records of now replace committed ones")


def _run_batch(options: argparse.Namespace) -> int:
    import gc

    gc.set_threshold(100_000)  # plans of thousands of runs, syntax trees, no cycles: the usual passes take 15 % of it
    from reprobook.batch.commands import batch

    return batch(options)


def _rehearse(options: argparse.Namespace) -> int:
    from reprobook.rehearsal import rehearse

    return max((_report(slug, rehearse(slug)) for slug in _slugs(options)), default=0)


def _refresh(options: argparse.Namespace) -> int:
    from reprobook.authoring.refresh import refresh

    worst = 0
    for slug in _slugs(options):
        result = refresh(slug)
        if result.status == "failed":
            worst = max(worst, _report(slug, result))
    return worst


def _portability(options: argparse.Namespace) -> int:
    from reprobook.authoring.portability import ALL, SOME, check, in_turn

    slugs = [in_turn(_slugs(options))] if options.one else _slugs(options)
    found = [problem for slug in slugs for problem in check(slug, SOME if options.one else ALL)]
    for line in found:
        print(line, file=sys.stderr)
    return 1 if found else 0


def _neutral(options: argparse.Namespace) -> int:
    from reprobook.authoring.neutral import declare

    return 1 if declare(_slugs(options), options.why) else 0


def _verify(options: argparse.Namespace) -> int:
    from reprobook.authoring.verify import verify

    found = verify(Path(options.record))
    print(f"{options.record}: {found.outcome}")
    for name, (old, new) in found.moved.items():
        print(f"  {name}: {old} then, {new} now")
    for reason in found.reasons:
        print(f"  {reason}")
    if found.outcome == "differs":
        print("  other bits are no failure of a claim: its verdict rests on intervals over seeds")
    return 1 if found.outcome == "differs" and not found.reasons else 0


def _new(options: argparse.Namespace) -> int:
    from reprobook.authoring.refresh import refresh
    from reprobook.authoring.scaffold import new

    for path in new(options.slug):
        print(f"wrote {path.relative_to(project.root())}")
    result = refresh(options.slug)
    return _report(options.slug, result) if result.status == "failed" else 0


def _check(options: argparse.Namespace) -> int:
    from reprobook.authoring.check import problems

    slugs = _slugs(options)
    found = [f"{slug}: {problem}" for slug in slugs for problem in problems(slug)]
    for line in found:
        print(line, file=sys.stderr)
    print(f"chapters checked: {len(slugs)}, problems: {len(found)}")
    return 1 if found else 0


def _doctor(options: argparse.Namespace) -> int:
    from reprobook.doctor import examine

    failed = False
    for finding in examine(options.slug, options.online):
        print(finding)
        failed |= finding.level == "fail"
    return int(failed)


def _bench(options: argparse.Namespace) -> int:
    from importlib import import_module

    from reprobook.bench import COLUMNS

    papers = Path(__file__).parent / "papers"
    measured = [slug for slug in project.chapters() if (papers / slug / "bench.py").is_file()]
    modules = {slug: f"reprobook.papers.{slug}.bench" for slug in measured} | {"lm": "reprobook.nn.bench"}
    if unknown := [slug for slug in options.slugs if slug not in modules]:
        raise ReprobookError(f"nothing to measure for {', '.join(unknown)}; there are: {', '.join(modules)}")
    rows, failed = [("chapter", *COLUMNS)], []
    for slug in options.slugs or modules:
        try:
            rows.append((slug, *import_module(modules[slug]).headline().row()))
        except ReprobookError as error:  # one that fails doesn't keep the others from the table
            failed.append(f"{slug}: {error}")
    _columns(rows)
    if "lm" in options.slugs:
        from reprobook.nn.bench import speeds

        print("\nTokens a second (a second of processor time)")
        for row in speeds():  # it takes minutes
            print(" | ".join(row), flush=True)
    for line in failed:
        print(line, file=sys.stderr)
    return 1 if failed else 0


def _pages(_: argparse.Namespace) -> int:
    from reprobook.authoring.pages import generate

    generate()
    return 0


# ------------------------------------------------------------------------------------------------ data


def _data(data: argparse.ArgumentParser) -> None:
    commands = data.add_subparsers(required=True, metavar="command")
    for name, command, text, scales in (
        ("list", _data_list, "list every artefact of the manifests", None),
        ("plan", _data_plan, "say what a fetch would move: bytes, licences, gates", OFFLINE_SCALES),
        ("fetch", _data_fetch, "fetch what is missing, and verify it", OFFLINE_SCALES),
        ("verify", _data_verify, "read all local copies again and compare checksums, offline", OFFLINE_SCALES),
        ("table", _data_table, "print the table that the chapter shows", ["smoke"]),
        ("croissant", _data_croissant, "describe the data sets as Croissant documents (JSON-LD)", None),
    ):
        sub = commands.add_parser(name, help=text, description=text)
        sub.add_argument("slugs", nargs="*", metavar="slug", help="chapters (default: all with a manifest)")
        sub.set_defaults(command=command, scales=scales)
        if scales:
            text = f"smoke, laptop or paper; may be repeated (default: {' and '.join(scales)})"
            sub.add_argument("--scale", dest="scales", action="append", default=None, help=text)
            sub.set_defaults(default_scales=scales)
        if command in (_data_plan, _data_fetch):
            text = "data of a run with this parameter, of chapters that have it"
            sub.add_argument("-p", dest="overrides", action="append", default=[], metavar="NAME=VALUE", help=text)


def _manifests(options: argparse.Namespace) -> list[str]:
    """Chapters with a manifest, whether or not their notebook is written, and what several may share."""
    listed = [*project.SLUGS, "shared"]
    known = [slug for slug in listed if (project.root() / "data_manifests" / f"{slug}.yaml").is_file()]
    unknown = [slug for slug in options.slugs if slug not in known]
    if unknown:
        raise ReprobookError(f"no manifest of {', '.join(unknown)}; manifests: {', '.join(known) or 'none yet'}")
    return options.slugs or known


def _scales(options: argparse.Namespace) -> list[str]:
    return [project.check_scale(scale) for scale in options.scales or options.default_scales]


def _data_list(options: argparse.Namespace) -> int:
    from reprobook.data import describe, load_manifest

    rows: list[tuple[str, ...]] = [("chapter", "id", "kind", "scales", "source", "licence")]
    for slug in _manifests(options):
        for artefact in load_manifest(slug).artefacts:
            scales = ", ".join(artefact.scales)
            rows.append((slug, artefact.id, artefact.kind, scales, describe(artefact), artefact.license))
    _columns(rows)
    return 0


def _data_plan(options: argparse.Namespace) -> int:
    from reprobook.data import free_bytes, plan, readable_bytes
    from reprobook.params import parse_override

    given = dict(map(parse_override, options.overrides))
    found = {row.id: row for scale in _scales(options) for row in plan(_manifests(options), scale, given)}
    rows = [("id", "source", "to move", "licence", "gated")]
    for row in found.values():
        moved = "there" if row.cached else readable_bytes(row.bytes, row.estimated)
        rows.append((row.id, row.source, moved, row.licence, "yes" if row.gated else "no"))
    _columns(rows)
    for row in found.values():
        if row.why:
            print(f"{row.id}: {row.why}")
    missing = [row for row in found.values() if not row.cached]
    total, free = sum(row.bytes or 0 for row in missing), free_bytes()
    unknown = sum(row.bytes is None for row in missing)
    says = readable_bytes(total, any(row.estimated and row.bytes for row in missing))
    says += f" and {unknown} of unknown size" if unknown else ""
    short = ": too little" if total > free else ""
    print(f"{len(missing)} of {len(found)} to fetch, {says}; the disk has {readable_bytes(free)} free{short}")
    return 0


def _data_fetch(options: argparse.Namespace) -> int:
    from reprobook.data import fetch
    from reprobook.params import parse_override

    failed, given = [], dict(map(parse_override, options.overrides))
    for slug in _manifests(options):
        for scale in _scales(options):
            try:
                fetch(slug, scale, overrides=given)
            except ReprobookError as error:  # one chapter's missing data doesn't keep the others from theirs
                failed.append(f"{slug}, {scale}: {error}")
    for line in failed:
        print(f"reprobook: {line}", file=sys.stderr)
    return 1 if failed else 0


def _data_verify(options: argparse.Namespace) -> int:
    from reprobook.data import verify

    slugs, scales = _manifests(options), _scales(options)
    found = dict.fromkeys(f"{slug}: {problem}" for slug in slugs for scale in scales for problem in verify(slug, scale))
    for line in found:
        print(line, file=sys.stderr)
    print(f"{len(slugs)} manifests verified, {len(found)} problems")
    return 1 if found else 0


def _data_table(options: argparse.Namespace) -> int:
    from reprobook.data import ChapterData

    for slug in _manifests(options):
        for scale in _scales(options):
            print(f"{slug}, {scale} scale")
            frame = ChapterData(slug, scale).table()
            _columns([list(frame.columns), *frame.values.tolist()])
    return 0


def _data_croissant(options: argparse.Namespace) -> int:
    from reprobook.data.croissant import export

    for slug in _manifests(options):
        for path in export(slug, project.root() / "_build" / "croissant" / slug):
            print(path.relative_to(project.root()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
