#!/usr/bin/env python3
"""Run Ansible's own checks on the built collection: ``ansible-test sanity``, ``ansible-lint``, installing it.

Three things stand in the way of running ``ansible-test`` as it comes, and are handled here:

- Inside a git checkout it looks at tracked files only, and the built tree is not tracked: the checks run on a
  copy outside the checkout.
- It downloads a script that puts pip into its virtual environments. Where only package indexes can be
  reached, a stand-in in its cache does the same with ``ensurepip`` and the index.
- It drops the environment variables that configure pip. They are written into a pip configuration file.

Its home directory is one of our own below ``build/``, so that none of this reaches the user's.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"

GET_PIP = '''\
"""Put pip into this virtual environment from its own copy and the index, without any other download."""
import subprocess
import sys

# In processes of their own: this one has loaded parts of a pip that is about to be replaced.
subprocess.run([sys.executable, "-m", "ensurepip"], check=True, stdout=subprocess.DEVNULL)
arguments = [a for a in sys.argv[1:] if a not in ("--no-setuptools", "--no-wheel")]
sys.exit(subprocess.run([sys.executable, "-m", "pip", "install", *arguments]).returncode)
'''


def prepare_home(home: Path) -> None:
    """Make *home* a place in which ansible-test finds its cached script and the pip settings in force."""
    cache = home / ".ansible" / "test" / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    code = "from ansible_test._internal.python_requirements import get_venv_packages as f;"
    code += f"from types import SimpleNamespace as S; print(f(S(version='{PYTHON}'))['pip'])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    (cache / f"get_pip_{done.stdout.strip().replace('.', '_')}.py").write_text(GET_PIP)
    settings = {
        name.removeprefix("PIP_").lower().replace("_", "-"): value
        for name, value in os.environ.items()
        if name.startswith("PIP_") and name != "PIP_CONFIG_FILE"
    }
    if "SSL_CERT_FILE" in os.environ:
        settings.setdefault("cert", os.environ["SSL_CERT_FILE"])
    config = home / ".config" / "pip" / "pip.conf"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items()))


def run(what: str, command: list[str], *, cwd: Path, env: dict[str, str]) -> bool:
    """Run one check and say how it ended; its output is shown only when it failed."""
    done = subprocess.run(
        command, cwd=cwd, env=env, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    print(f"{what}: {'ok' if done.returncode == 0 else 'FAILED'}", flush=True)
    if done.returncode:
        print(done.stdout, flush=True)
    return done.returncode == 0


def main(arguments: list[str] | None = None) -> int:
    """Entry point; exit status 0 when every check passed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument(
        "checks", nargs="*", default=["install", "lint", "sanity"], metavar="install|lint|sanity"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "build", help="build directory")
    options = parser.parse_args(arguments)
    tree = options.out / "ansible_collections" / "appc" / "gantry"
    home = (options.out / "home").absolute()
    prepare_home(home)
    env = {
        **os.environ,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "NO_COLOR": "1",
        "ANSIBLE_NOCOLOR": "1",
    }
    good = True
    with tempfile.TemporaryDirectory(prefix="gantry-collection-") as temporary:
        copy = Path(temporary) / "ansible_collections" / "appc" / "gantry"
        shutil.copytree(tree, copy)
        if "install" in options.checks:
            artifact = max(options.out.glob("appc-gantry-*.tar.gz"), key=lambda p: p.stat().st_mtime_ns)
            place = Path(temporary) / "installed"
            base = ["ansible-galaxy", "collection"]
            good &= run(
                "ansible-galaxy collection install",
                [*base, "install", "--offline", "-p", str(place), str(artifact.absolute())],
                cwd=copy,
                env=env,
            )
            good &= run(
                "ansible-galaxy collection verify",
                [*base, "verify", "--offline", "-p", str(place), "appc.gantry"],
                cwd=copy,
                env=env,
            )
        if "lint" in options.checks:
            lint_env = {**env, "ANSIBLE_COLLECTIONS_PATH": temporary, "ANSIBLE_HOME": str(home / ".ansible")}
            good &= run("ansible-lint", ["ansible-lint", "--offline", "--nocolor"], cwd=copy, env=lint_env)
        if "sanity" in options.checks:
            good &= run(
                "ansible-test sanity",
                ["ansible-test", "sanity", "--python", PYTHON, "--requirements", "--color", "no"],
                cwd=copy,
                env={**env, "HOME": str(home)},
            )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
