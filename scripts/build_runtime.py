"""Build the runtime archive that a host of a given Python and architecture unpacks.

The control node's own Python may be another one than the host's, so nothing is imported here: wheels are
chosen for the host's Python, checked against the hashes of the lock, and unpacked as files. Byte code is made
here when an interpreter of the host's version is at hand, and otherwise on the host by its own
(docs/decisions/0008-runtime-tree.md).

What an archive holds, all below one release directory on the host::

    bin/gantry      the launcher, with the host's interpreter as an absolute path
    lib/            gantry and the libraries it needs: sources, extension modules, byte code if made here
    units/          systemd units
    MANIFEST.json   version, Python, architecture, and the SHA-256 of every other file

- The same inputs give the same bytes: names sorted, times zero, owners root, no host names.
- The name of a release is ``VERSION-HASH``, HASH over the files' hashes: equal names mean equal trees. Byte
  code does not count, as it follows from the sources.
- The result is kept under a key of everything that went in; a second build only compares the key.
- Several builds at once are safe: one lock per output directory, results appear by rename.

The script stands alone (standard library and pip): the collection ships it beside the project's wheel. It is
one file, though a long one, because it is run by its path on control nodes where nothing of ours can be
imported, and its own text is part of the key of what it has built: a second file could be forgotten in both.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import gzip
import hashlib
import io
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

FORMAT = 1
"""Raised whenever the same inputs would give another archive; part of the cache key."""

PLATFORMS = {
    "x86_64": ("x86_64", (39, 36, 35, 34, 31, 28, 27, 24, 17)),
    "aarch64": ("aarch64", (39, 36, 35, 34, 31, 28, 27, 24, 17)),
}
"""Machine name -> its name in wheel tags, and the manylinux glibc minors that our hosts satisfy.

Debian 12 has glibc 2.36 and Debian 13 has 2.41; a wheel that needs more than Debian 12 has is not taken
unless nothing else fits, because newer tags stand for newer systems only.
"""

HOST_GLIBC_MINOR = 36
PYTHONS = ("3.11", "3.12", "3.13")
SKIPPED_DIRECTORIES = frozenset({"__pycache__", "tests", "test"})
SKIPPED_SUFFIXES = (".pyc", ".pyi", ".c", ".h", ".pxd")
INSTALLED = "/opt/gantry/current"
"""Where the sources will lie, for the file names in tracebacks."""

KEPT_METADATA = ("METADATA", "licenses/", "LICENSE", "COPYING", "NOTICE")


class BuildError(Exception):
    """The archive cannot be built; the text is one line for the user."""


class Entry(NamedTuple):
    """One file of the archive."""

    data: bytes
    mode: int


class Result(NamedTuple):
    """Where the archive is and what it is.

    Attributes:
        archive: The file.
        sha256: Of the archive's bytes.
        release: Name of the release directory on a host.
        version: Gantry's version.
        python: The host Python it is for, such as ``3.13``.
        arch: The machine it is for.
        cached: Whether nothing had to be built.
    """

    archive: str
    sha256: str
    release: str
    version: str
    python: str
    arch: str
    cached: bool


def parse_lock(text: str) -> dict[str, set[str]]:
    """Distribution name (normalised) -> the SHA-256 values that the lock allows for it.

    Raises:
        BuildError: A requirement has no hash, so it could not be checked.
    """
    allowed: dict[str, set[str]] = {}
    for line in text.replace("\\\n", " ").splitlines():
        requirement = line.split("#", 1)[0].strip()
        if not requirement:
            continue
        match = re.match(r"([A-Za-z0-9._-]+)==", requirement)
        hashes = set(re.findall(r"--hash=sha256:([0-9a-f]{64})", requirement))
        if match is None or not hashes:
            raise BuildError(f"the lock has a requirement without version or hash: {requirement[:80]}")
        allowed[_normalise(match.group(1))] = hashes
    return allowed


def _normalise(name: str) -> str:
    """A distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_source(source: Path) -> dict[str, bytes]:
    """The package ``gantry`` as path -> bytes, paths beginning with ``gantry/``.

    Args:
        source: A directory that holds ``gantry/`` or a wheel of the project.

    Raises:
        BuildError: There is no such package.
    """
    files: dict[str, bytes] = {}
    if source.is_dir():
        for path in sorted((source / "gantry").rglob("*")):
            name = path.relative_to(source).as_posix()
            if path.is_file() and _wanted(name):
                files[name] = path.read_bytes()
    else:
        with zipfile.ZipFile(source) as wheel:
            files = {n: wheel.read(n) for n in wheel.namelist() if n.startswith("gantry/") and _wanted(n)}
    if "gantry/__init__.py" not in files:
        raise BuildError(f"{source} holds no package gantry")
    return files


def _wanted(name: str) -> bool:
    """Whether a host needs the file *name* of a library or of gantry."""
    parts = PurePosixPath(name).parts
    return not (SKIPPED_DIRECTORIES & set(parts[:-1])) and not name.endswith(SKIPPED_SUFFIXES)


def source_version(files: Mapping[str, bytes]) -> str:
    """The version that ``gantry/__init__.py`` states.

    Raises:
        BuildError: It states none.
    """
    match = re.search(rb'^__version__ = "([0-9A-Za-z.+-]+)"$', files["gantry/__init__.py"], re.MULTILINE)
    if match is None:
        raise BuildError("gantry/__init__.py states no __version__")
    return match.group(1).decode()


def wheel_files(path: Path, python: str) -> dict[str, Entry]:
    """What a wheel puts below ``lib/``: libraries, and of its metadata name, version and licences.

    Raises:
        BuildError: The wheel is for another Python, or names a file outside its own tree.
    """
    files: dict[str, Entry] = {}
    extension = re.compile(r"\.cpython-(\d+)-[^/]*\.so$")
    with zipfile.ZipFile(path) as wheel:
        for info in wheel.infolist():
            name = info.filename
            if info.is_dir():
                continue
            if name.startswith("/") or ".." in PurePosixPath(name).parts:
                raise BuildError(f"{path.name} holds the unsafe name {name}")
            head, _slash, rest = name.partition("/")
            if head.endswith(".data"):
                kind, _slash, inner = rest.partition("/")
                if kind not in {"purelib", "platlib"}:
                    continue
                name = inner
            elif head.endswith(".dist-info") and not rest.startswith(KEPT_METADATA):
                continue
            if not _wanted(name):
                continue
            found = extension.search(name)
            if found and found.group(1) != python.replace(".", ""):
                raise BuildError(f"{path.name} is not for Python {python}: it holds {name}")
            files[f"lib/{name}"] = Entry(wheel.read(info), 0o644)
    return files


def collect_wheels(
    lock: Path, *, python: str, arch: str, cache: Path, wheelhouse: Path | None, pip: list[str]
) -> list[Path]:
    """The wheels of the lock for one host Python; downloaded once, checked every time.

    Args:
        lock: Requirements with hashes.
        python: Host Python, such as ``3.13``.
        arch: Host machine.
        cache: Where downloaded wheels stay.
        wheelhouse: Take wheels from this directory only; no index is asked.
        pip: The command that runs pip on this machine.

    Raises:
        BuildError: pip failed, or a wheel is not the one the lock means.
    """
    allowed = parse_lock(lock.read_text())
    key = hashlib.sha256(lock.read_bytes()).hexdigest()[:12]
    final = cache / f"{python}-{arch}-{key}"
    if not final.is_dir():
        with tempfile.TemporaryDirectory(dir=cache, prefix=".download-") as temporary:
            target = Path(temporary) / "wheels"
            target.mkdir()
            _pip_download(lock, target, python=python, arch=arch, wheelhouse=wheelhouse, pip=pip)
            target.rename(final)
    wheels = sorted(final.glob("*.whl"))
    for wheel in wheels:
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        if digest not in allowed.get(_normalise(wheel.name.split("-", 1)[0]), set()):
            raise BuildError(f"{wheel} is not the file that {lock.name} means; remove {final} and try again")
    return wheels


def _pip_download(
    lock: Path, target: Path, *, python: str, arch: str, wheelhouse: Path | None, pip: list[str]
) -> None:
    tag, minors = PLATFORMS[arch]
    command = [*pip, "download", "--quiet", "--no-deps", "--require-hashes", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--python-version", python, "--implementation", "cp"]
    for minor in minors:
        if minor <= HOST_GLIBC_MINOR:
            command += ["--platform", f"manylinux_2_{minor}_{tag}"]
    command += ["--platform", f"manylinux2014_{tag}", "--requirement", str(lock), "--dest", str(target)]
    if wheelhouse is not None:
        command += ["--no-index", "--find-links", str(wheelhouse)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        reason = (errors or done.stderr.strip().splitlines() or ["no output"])[-1]
        raise BuildError(f"pip could not get the wheels for Python {python} on {arch}: {reason}")
    if not any(target.iterdir()):
        raise BuildError(f"pip got no wheel for Python {python} on {arch}")


def launcher(text: bytes, interpreter: str) -> bytes:
    """The launcher script with *interpreter* as its absolute interpreter; its options are kept.

    Raises:
        BuildError: The first line of *text* is not that of a Python script.
    """
    first, newline, rest = text.partition(b"\n")
    match = re.match(
        rb"#!\s*(?:/usr/bin/env(?: -S)? )?(?:\S*python[0-9.]*|@[A-Z_]+@)(?P<options>(?: .*)?)$", first
    )
    if match is None or not newline:
        raise BuildError("data/bin/gantry does not begin with the line of a Python script")
    return b"#!" + interpreter.encode() + match["options"].rstrip() + b"\n" + rest


def assemble(
    source: Mapping[str, bytes],
    wheels: list[Path],
    *,
    python: str,
    arch: str,
    interpreter: str,
    compiler: list[str],
) -> tuple[dict[str, Entry], dict[str, object]]:
    """Every file of the archive except the manifest, and the manifest.

    Raises:
        BuildError: The launcher is missing, or two parts claim the same file.
    """
    files: dict[str, Entry] = {}
    for name, data in source.items():
        inner = name.removeprefix("gantry/data/")
        if inner == "bin/gantry":
            files["bin/gantry"] = Entry(launcher(data, interpreter), 0o755)
        elif inner != name and inner.startswith("units/"):
            files[inner] = Entry(data, 0o644)
        else:
            files[f"lib/{name}"] = Entry(data, 0o644)
    if "bin/gantry" not in files:
        raise BuildError("the sources have no launcher gantry/data/bin/gantry")
    for wheel in wheels:
        for name, entry in wheel_files(wheel, python).items():
            if files.setdefault(name, entry) != entry:
                raise BuildError(f"{wheel.name} holds {name}, which is already there with other content")
    listing = _listing(files)
    version = source_version(source)
    identity = json.dumps([FORMAT, version, python, arch, listing], sort_keys=True).encode()
    if compiler:
        files.update(compile_sources(files, compiler))
    manifest: dict[str, object] = {
        "format": FORMAT,
        "name": "gantry",
        "version": version,
        "release": f"{version}-{hashlib.sha256(identity).hexdigest()[:12]}",
        "python": python,
        "arch": arch,
        "interpreter": interpreter,
        "compiled": bool(compiler),
        "files": _listing(files),
    }
    return files, manifest


def _listing(files: Mapping[str, Entry]) -> dict[str, dict[str, object]]:
    """Hash, size and mode of every file, as the manifest has them."""
    return {
        name: {
            "sha256": hashlib.sha256(entry.data).hexdigest(),
            "size": len(entry.data),
            "mode": f"{entry.mode:04o}",
        }
        for name, entry in sorted(files.items())
    }


def find_compiler(python: str) -> tuple[list[str], str]:
    """A command that runs an interpreter of that version, and its full version; empty when there is none."""
    candidates = [sys.executable, f"/usr/bin/python{python}", shutil.which(f"python{python}")]
    for candidate in candidates:
        if candidate is None or not os.access(candidate, os.X_OK):
            continue
        command = [candidate, "-sS"]
        probe = "import sys; print(sys.implementation.name, *sys.version_info[:3])"
        done = subprocess.run([*command, "-c", probe], check=False, capture_output=True, text=True)
        name, *version = done.stdout.split() or [""]
        if done.returncode == 0 and name == "cpython" and ".".join(version[:2]) == python:
            return command, ".".join(version)
    return [], ""


def compile_sources(files: Mapping[str, Entry], command: list[str]) -> dict[str, Entry]:
    """Byte code for every source below ``lib/``, never to be compared with its source again.

    Args:
        files: The archive's files.
        command: What :func:`find_compiler` found.

    Raises:
        BuildError: A source does not compile.
    """
    with tempfile.TemporaryDirectory(prefix="gantry-compile-") as temporary:
        for name, entry in files.items():
            if name.startswith("lib/") and name.endswith(".py"):
                path = Path(temporary) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(entry.data)
        line = [*command, "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash"]
        line += ["-s", temporary, "-p", INSTALLED, f"{temporary}/lib"]
        done = subprocess.run(line, check=False, capture_output=True, text=True)
        if done.returncode:
            reason = (done.stdout + done.stderr).strip().splitlines() or ["no output"]
            raise BuildError(f"the runtime could not be compiled: {reason[-1].strip()}")
        return {
            path.relative_to(temporary).as_posix(): Entry(path.read_bytes(), 0o644)
            for path in Path(temporary).rglob("*.pyc")
        }


def pack(files: Mapping[str, Entry]) -> bytes:
    """A gzip-compressed tar archive of *files*: sorted, times zero, owned by root."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name in sorted(files):
            info = tarfile.TarInfo(name)
            info.size = len(files[name].data)
            info.mode = files[name].mode
            info.uname = info.gname = "root"
            archive.addfile(info, io.BytesIO(files[name].data))
    packed = io.BytesIO()
    with gzip.GzipFile(filename="", fileobj=packed, mode="wb", compresslevel=6, mtime=0) as stream:
        stream.write(raw.getbuffer())
    return packed.getvalue()


def cache_key(source: Mapping[str, bytes], lock: Path, parts: tuple[str, ...]) -> str:
    """A digest of everything that decides the archive's bytes, this script's own text included."""
    digest = hashlib.sha256()
    for part in (str(FORMAT), *parts):
        digest.update(part.encode() + b"\0")
    digest.update(hashlib.sha256(Path(__file__).read_bytes()).digest())
    digest.update(hashlib.sha256(lock.read_bytes()).digest())
    for name in sorted(source):
        digest.update(name.encode() + b"\0" + hashlib.sha256(source[name]).digest())
    return digest.hexdigest()


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Hold the one lock of *directory*; released with the process at the latest."""
    with (directory / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _write(path: Path, data: bytes) -> None:
    """Put *data* at *path* by rename, so that no reader ever sees half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def build(
    *,
    source: Path,
    lock: Path,
    python: str,
    arch: str,
    out: Path,
    interpreter: str | None = None,
    wheelhouse: Path | None = None,
    pip: list[str] | None = None,
    precompile: bool = True,
) -> Result:
    """Build, or find, the archive for one kind of host.

    Args:
        source: Directory that holds ``gantry/``, or the project's wheel.
        lock: Requirements with hashes.
        python: Host Python ``MAJOR.MINOR``.
        arch: Host machine as ``uname -m`` prints it.
        out: Directory for archives and downloaded wheels.
        interpreter: Absolute path of the host's interpreter; ``/usr/bin/pythonX.Y`` when not given.
        wheelhouse: Directory of wheels to use instead of an index.
        pip: Command that runs pip; this interpreter's own when not given.
        precompile: Make byte code here if an interpreter of the host's version is at hand.

    Raises:
        BuildError: See the functions above.
    """
    if python not in PYTHONS:
        raise BuildError(f"Python {python} is not supported on hosts; supported: {', '.join(PYTHONS)}")
    if arch not in PLATFORMS:
        raise BuildError(f"machine {arch} is not supported; supported: {', '.join(PLATFORMS)}")
    interpreter = interpreter or f"/usr/bin/python{python}"
    if not re.fullmatch(r"/[A-Za-z0-9._/+-]+", interpreter):
        raise BuildError(f"the interpreter must be a plain absolute path, not {interpreter}")
    files = read_source(source)
    compiler, compiler_version = find_compiler(python) if precompile else ([], "")
    key = cache_key(files, lock, (python, arch, interpreter, compiler_version))
    cache = out / "wheels"
    cache.mkdir(parents=True, exist_ok=True)
    archive = out / f"gantry-runtime-py{python}-{arch}-{key[:16]}.tar.gz"
    record = archive.with_name(archive.name.removesuffix(".tar.gz") + ".json")
    with _locked(out):
        if record.is_file() and archive.is_file():
            known = json.loads(record.read_text())
            if known.get("key") == key and known.get("size") == archive.stat().st_size:
                return Result(
                    **{**{n: known[n] for n in Result._fields}, "archive": str(archive), "cached": True}
                )
        wheels = collect_wheels(
            lock,
            python=python,
            arch=arch,
            cache=cache,
            wheelhouse=wheelhouse,
            pip=pip or [sys.executable, "-m", "pip"],
        )
        contents, manifest = assemble(
            files, wheels, python=python, arch=arch, interpreter=interpreter, compiler=compiler
        )
        text = json.dumps(manifest, indent=1, sort_keys=True) + "\n"
        contents["MANIFEST.json"] = Entry(text.encode(), 0o644)
        data = pack(contents)
        digest = hashlib.sha256(data).hexdigest()
        _write(archive, data)
        result = Result(
            str(archive),
            digest,
            str(manifest["release"]),
            str(manifest["version"]),
            python,
            arch,
            cached=False,
        )
        kept = {**result._asdict(), "key": key, "size": len(data)}
        _write(record, json.dumps(kept, sort_keys=True).encode())
        _forget_others(out, python, arch, keep=archive)
        return result


def _forget_others(out: Path, python: str, arch: str, *, keep: Path, limit: int = 3) -> None:
    """Remove all but the newest archives of one kind, so that a cache does not grow for ever."""
    kind = sorted(out.glob(f"gantry-runtime-py{python}-{arch}-*.tar.gz"), key=lambda p: -p.stat().st_mtime_ns)
    for old in kind[limit:]:
        if old != keep:
            old.unlink(missing_ok=True)
            old.with_name(old.name.removesuffix(".tar.gz") + ".json").unlink(missing_ok=True)


def _defaults() -> tuple[Path, Path]:
    """Source and lock as they lie in a checkout, or beside this script in the collection."""
    here = Path(__file__).resolve().parent
    root = here.parent
    if (root / "runtime" / "gantry").is_dir():
        return root / "runtime", root / "requirements-runtime.lock"
    wheels = sorted(here.glob("appc_gantry-*.whl"))
    return (wheels[-1] if wheels else here), here / "requirements-runtime.lock"


def main(arguments: list[str] | None = None) -> int:
    """Entry point: build one archive per ``--python`` and print a JSON list of what was made."""
    source, lock = _defaults()
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--python", action="append", required=True, metavar="X.Y[=INTERPRETER]")
    parser.add_argument("--arch", default=platform.machine(), choices=sorted(PLATFORMS))
    parser.add_argument("--out", type=Path, default=Path("build/runtime"))
    parser.add_argument(
        "--source", type=Path, default=source, help="directory that holds gantry/, or a wheel"
    )
    parser.add_argument("--lock", type=Path, default=lock)
    parser.add_argument("--wheelhouse", type=Path, help="take wheels from here; ask no index")
    parser.add_argument("--no-compile", action="store_true", help="leave all byte code to the host")
    parser.add_argument("--pip", help="command that runs pip (default: this interpreter's)")
    options = parser.parse_args(arguments)
    results = []
    try:
        for wanted in options.python:
            python, _equals, interpreter = wanted.partition("=")
            result = build(
                source=options.source,
                lock=options.lock,
                python=python,
                arch=options.arch,
                out=options.out.absolute(),
                interpreter=interpreter or None,
                wheelhouse=options.wheelhouse,
                pip=options.pip.split() if options.pip else None,
                precompile=not options.no_compile,
            )
            results.append(result._asdict())
    except (BuildError, OSError) as error:
        print(f"build_runtime: {error}", file=sys.stderr)
        return 1
    print(json.dumps(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
