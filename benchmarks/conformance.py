"""How much of the public HTTP cache test suite (npm: http-cache-tests) our response cache passes, beside Varnish and nginx.

A small reverse proxy made of `ResponseCache` stands before the suite's own origin; Varnish and nginx are Debian's, unpacked without root,
as they come but for what tells them where the origin is and that they are to cache. The suite tells three kinds of tests apart: what a
cache must do (required), what a good one does (optimal), and what is only noticed (check), which nobody passes or fails.

Run it: ``python -m benchmarks.conformance``. It needs node with npm, and for the others apt; what can not be had is left out and named.
``--failed`` names the tests that ours does not pass.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from benchmarks.alone import command_of

FOLDER: Final = Path(__file__).resolve().parents[1] / ".build" / "conformance"
SUITE: Final = "http-cache-tests@0.4.5"
FETCH: Final = "node-fetch@2.7.0"
PACKAGES: Final = ("varnish", "libvarnishapi3", "libjemalloc2", "libedit2", "libbsd0", "nginx")
KINDS: Final = ("required", "optimal")
LONGEST: Final = 600
"""Seconds that one command may take."""
LIST: Final = """\
import tests from './tests/index.mjs'
const found = []
for (const suite of tests) {
  for (const test of suite.tests) {
    if (!test.browser_only) found.push([suite.id, test.id, test.kind || 'required'])
  }
}
console.log(JSON.stringify(found))
"""


def main() -> int:
    """Fetch what is missing, run the suite against each cache, and print the shares."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.conformance", description=__doc__)
    parser.add_argument("--only", action="append", choices=tuple(CACHES), help="run this one; may be given several times")
    parser.add_argument("--failed", action="store_true", help="name the tests of either kind that are not passed")
    parser.add_argument("--fetch", action="store_true", help="only fetch Varnish and nginx, for the tests that stand behind them")
    parser.add_argument("--id", help="run this test alone, against ours, and show its requests")
    options = parser.parse_args()
    if options.fetch:
        try:
            print(fetch_servers())
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            print(f"no Varnish and nginx for the tests: {error}", file=sys.stderr)
            return 1
        return 0
    suite = fetch_suite()
    if options.id:
        with origin(suite) as port, cachesync(port) as proxy:
            print(_node(suite, "cli.mjs", base=f"http://127.0.0.1:{proxy}", id=options.id))
        return 0
    kinds = {name: (group, kind) for group, name, kind in json.loads(_list(suite))}
    print(f"{SUITE}: {', '.join(f'{count} {kind}' for kind, count in Counter(kind for _, kind in kinds.values()).items())}")
    for name in options.only or CACHES:
        try:
            print(f"running {name} ...", file=sys.stderr, flush=True)
            with origin(suite) as port, CACHES[name](port) as proxy:
                results = json.loads(_node(suite, "cli.mjs", base=f"http://127.0.0.1:{proxy}", id=""))
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            print(f"{name} is left out: {error}")
            continue
        _show(name, kinds, results, options.failed)
    return 0


def _show(name: str, kinds: dict[str, tuple[str, str]], results: dict[str, Any], failed: bool) -> None:
    passed = Counter(kind for test, (_, kind) in kinds.items() if results.get(test) is True)
    total = Counter(kind for _, kind in kinds.values())
    shares = [f"{kind} {passed[kind]}/{total[kind]} ({passed[kind] / total[kind]:.1%})" for kind in KINDS]
    both = sum(passed[kind] for kind in KINDS) / sum(total[kind] for kind in KINDS)
    print(f"{name:10} both {both:.1%}   {'   '.join(shares)}")
    for test, (group, kind) in kinds.items() if failed else ():
        if kind in KINDS and results.get(test) is not True:
            print(f"    {kind:8} {group:14} {test}: {results.get(test)}")


# --- the suite ------------------------------------------------------------------------------------------------------------------


def fetch_suite() -> Path:
    """The folder of the suite, unpacked under ``.build`` with the one package that it needs here."""
    folder = FOLDER / "suite"
    if (folder / "ready").exists():
        return folder
    npm = shutil.which("npm")
    if npm is None:
        raise SystemExit("npm is not installed: without it the suite can not be fetched")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    packed = _run(npm, "pack", "--silent", SUITE, at=folder).split()[-1]
    _run("tar", "-xzf", packed, "--strip-components=1", at=folder)
    _run(npm, "install", "--no-save", "--no-audit", "--no-fund", "--ignore-scripts", "--omit=dev", FETCH, at=folder)
    (folder / "list.mjs").write_text(LIST)
    (folder / "ready").touch()
    return folder


def _list(suite: Path) -> str:
    (suite / "list.mjs").write_text(LIST)
    return _node(suite, "list.mjs")


@contextmanager
def origin(suite: Path) -> Generator[int]:
    """The suite's origin server, on a port of its own."""
    port = _free_port()
    with _started(
        ["node", "--no-warnings", "server/server.mjs"],
        port,
        cwd=suite,
        env={**os.environ, "npm_config_protocol": "http", "npm_config_port": str(port), "npm_config_pidfile": os.devnull},
    ):
        yield port


def _node(suite: Path, script: str, **settings: str) -> str:
    env = {**os.environ, **{f"npm_package_config_{name}": value for name, value in settings.items()}}
    done = subprocess.run(
        ["node", "--no-warnings", script], cwd=suite, env=env, capture_output=True, text=True, timeout=LONGEST, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-500:])
    return done.stdout


# --- the caches -----------------------------------------------------------------------------------------------------------------


@contextmanager
def cachesync(origin_port: int) -> Generator[int]:
    """Ours: uvicorn with `proxy_app` in a process of its own."""
    port = _free_port()
    command = command_of("benchmarks.conformance_proxy", str(port), str(origin_port))
    with _started(command, port, cwd=Path(__file__).resolve().parents[1], env={**os.environ}):
        yield port


@contextmanager
def varnish(origin_port: int) -> Generator[int]:
    """Varnish with its built-in rules."""
    root, port = fetch_servers(), _free_port()
    libraries = root / "usr/lib/x86_64-linux-gnu"
    with tempfile.TemporaryDirectory() as work:
        command = [str(root / "usr/sbin/varnishd"), "-F", "-n", work, "-j", "none", "-a", f"127.0.0.1:{port}"]
        command += ["-b", f"127.0.0.1:{origin_port}", "-s", "malloc,64m", "-p", f"vmod_path={libraries / 'varnish/vmods'}"]
        command += ["-p", f"vcl_path={root / 'usr/share/varnish/vcl'}"]
        env = {**os.environ, "LD_LIBRARY_PATH": f"{libraries}:{libraries / 'varnish'}"}
        with _started(command, port, cwd=Path(work), env=env):
            yield port


@contextmanager
def nginx(origin_port: int) -> Generator[int]:
    """Let nginx cache, and ask whether what is stale is current."""
    root, port = fetch_servers(), _free_port()
    with tempfile.TemporaryDirectory() as work:
        (Path(work) / "logs").mkdir()
        paths = " ".join(f"{name}_temp_path {work}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        (Path(work) / "nginx.conf").write_text(
            f"daemon off; pid {work}/pid; error_log {work}/error; events {{}}\n"
            f"http {{ access_log off; {paths} proxy_cache_path {work}/kept keys_zone=kept:8m;\n"
            f"server {{ listen 127.0.0.1:{port}; location / {{\n"
            f"proxy_pass http://127.0.0.1:{origin_port}; proxy_cache kept; proxy_cache_revalidate on; }} }} }}\n"
        )
        command = [str(root / "usr/sbin/nginx"), "-p", work, "-c", f"{work}/nginx.conf", "-e", f"{work}/error"]
        if os.geteuid() == 0:
            command += ["-g", "user root;"]
        with _started(command, port, cwd=Path(work), env={**os.environ}):
            yield port


CACHES: Final[dict[str, Callable[[int], Any]]] = {"cachesync": cachesync, "varnish": varnish, "nginx": nginx}


def fetch_servers() -> Path:
    """Varnish and nginx, unpacked under ``.build``. Raises ``RuntimeError`` where there is no apt, or it has no such packages."""
    folder = FOLDER / "servers"
    if (folder / "ready").exists():
        return folder
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise RuntimeError("there is no apt here")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as work:
        # Lists and packages are kept in a folder of ours: those of the system need root.
        (Path(work) / "lists" / "partial").mkdir(parents=True)
        (Path(work) / "cache" / "archives" / "partial").mkdir(parents=True)
        own = (f"Dir::State::lists={work}/lists", f"Dir::Cache={work}/cache", "APT::Sandbox::User=", "Acquire::Retries=3")
        options = [word for option in own for word in ("-o", option)]
        _run("apt-get", *options, "-qq", "update", at=Path(work))
        _run("apt-get", *options, "-qq", "download", *PACKAGES, at=Path(work))
        for package in sorted(Path(work).glob("*.deb")):
            _run("dpkg-deb", "-x", str(package), str(folder), at=Path(work))
    (folder / "ready").touch()
    return folder


def fetched() -> list[str]:
    """The caches that can be run here as it is: ours, and the others where they have been fetched."""
    return [name for name in CACHES if name == "cachesync" or (FOLDER / "servers" / "ready").exists()]


# --- processes ------------------------------------------------------------------------------------------------------------------


def _run(*command: str, at: Path) -> str:
    done = subprocess.run(command, cwd=at, capture_output=True, text=True, timeout=LONGEST, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]} {command[1]}: {done.stderr[-300:]}")
    return done.stdout


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@contextmanager
def _started(command: list[str], port: int, *, cwd: Path, env: dict[str, str]) -> Generator[None]:
    """A server, from when it takes connections."""
    with ExitStack() as stack:
        log = stack.enter_context(tempfile.TemporaryFile("w+"))
        process = subprocess.Popen(command, cwd=cwd, env=env, stdout=log, stderr=subprocess.STDOUT)
        stack.callback(process.wait)
        stack.callback(process.terminate)
        until = time.monotonic() + 20
        while True:
            with socket.socket() as one:
                if one.connect_ex(("127.0.0.1", port)) == 0:
                    break
            if process.poll() is not None or time.monotonic() > until:
                log.seek(0)
                raise RuntimeError(f"{Path(command[0]).name} does not start: {log.read()[-300:]}")
            time.sleep(0.05)
        yield


if __name__ == "__main__":
    raise SystemExit(main())
