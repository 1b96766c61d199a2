"""Runs of all verbs that are killed, race each other and run out of room, for as long as one likes.

    python tests/whole/soak.py FOLDER --minutes 60 --seed 1 [--tmpfs]

With `--tmpfs` the outputs lie on disks of 2 MB, in a mount namespace of its own (root, or `unshare -r`), and these run
full; without, files may not grow beyond a limit.

Held at every moment: OUT is a whole file that a run has published, side files and all, and after the next run nothing
is left of those that were killed.  What a run publishes is known: the same options give the same bytes.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx

from onnx_ocs import api
from onnx_ocs.errors import UserError
from onnx_ocs.model import files, staging
from onnx_ocs.passes import Translate

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "models" / "digits.w8a2.onnx"
RATIOS = (0.3, 0.6)
# the command line; how fast a model runs is not asked here
RUN = [
    sys.executable, "-c", "from onnx_ocs.measurement import latency; latency.ROUNDS = latency.LEAST; "
    "from onnx_ocs.cli.app import main; main()",
]  # fmt: skip
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
GOOD_CODES = (0, 1, *(-s for s in SIGNALS), *(128 + s for s in SIGNALS))


class Soak:
    """A folder in which runs do their worst to each other."""

    def __init__(self, folder: Path, seed: int, tmpfs: bool = False) -> None:
        self.folder, self.rng, self.tmpfs = folder, random.Random(seed), tmpfs
        self.tmp = folder / "tmp"
        self.tmp.mkdir(parents=True)
        onnx.save(
            onnx.load(DIGITS), folder / "side.onnx", save_as_external_data=True, location="side.data", size_threshold=0
        )
        (folder / "plain.onnx").write_bytes(DIGITS.read_bytes())
        pixels = np.load(ROOT / "models" / "digits.calib.npz")["pixels"][:24]
        np.savez(folder / "c.npz", pixels=pixels)
        self.whole: dict[str, set[str]] = {}
        for kind in ("side", "plain"):  # what each run publishes, verified once
            self.whole[kind] = set()
            for ratio in RATIOS:
                api.rewrite(folder / f"{kind}.onnx", self.out(kind), passes=[Translate(ratio)])
                self.whole[kind].add(files.fingerprint(files.load_model(self.out(kind))))
        self.found: Counter[str] = Counter()

    def out(self, kind: str) -> Path:
        folder = self.folder / f"out_{kind}"
        if not folder.exists():
            folder.mkdir()
            if self.tmpfs:
                subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", folder], check=True)
        return folder / "o.onnx"

    def start(self, kind: str, room: int | None = None) -> subprocess.Popen[bytes]:
        """A rewrite with random options, or another verb on what is there."""
        source, out = f"{kind}.onnx", str(self.out(kind))
        report = ["--report", str(self.out(kind).with_name("r.json"))]
        plan = ["plan", source, "-o", "p.json", "--calib", "c.npz", "--effort", "quick", "--jobs", "2"]
        verbs = [
            *[["rewrite", source, out, "-q", *report, "--ratio", str(r)] for r in RATIOS] * 4,
            ["verify", source, out, "-q", *report],
            ["inspect", source, *report],
            [*plan, "--stats", str(self.folder / f"s{self.rng.randrange(3)}.{kind}.npz")],
        ]

        def small() -> None:
            if room is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))

        return subprocess.Popen(
            [*RUN, *self.rng.choice(verbs)],
            cwd=self.folder, env={**os.environ, "TMPDIR": str(self.tmp)}, preexec_fn=small,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip

    def ended(self, process: subprocess.Popen[bytes], what: str) -> None:
        _, err = process.communicate(timeout=300)
        self.found[f"{what}: {process.returncode}"] += 1
        if signal.SIGINT not in (-process.returncode, process.returncode - 128):  # Python itself may be interrupted
            assert b"Traceback" not in err, err.decode()
        assert process.returncode in GOOD_CODES, (process.returncode, err)

    def killed(self, kind: str) -> None:
        process, number = self.start(kind), self.rng.choice(SIGNALS)
        if self.rng.random() < 0.5:
            time.sleep(self.rng.uniform(0.2, 4))
        else:  # as soon as something is staged
            while process.poll() is None and not [*self.out(kind).parent.glob(".onnx_ocs.*")]:
                time.sleep(0.001)
            time.sleep(self.rng.choice((0, 0.001, 0.01, 0.1, 1.0)))
        process.send_signal(number)
        self.ended(process, f"killed by {number.name}")

    def raced(self, kind: str) -> None:
        for process in [self.start(kind) for _ in range(self.rng.choice((2, 3)))]:
            self.ended(process, "raced")

    def filled(self, kind: str) -> None:
        if self.tmpfs:
            balloon = self.out(kind).with_name("balloon")
            s, room = os.statvfs(balloon.parent), self.rng.choice((0, 50_000, 150_000, 220_000, 230_000, 300_000))
            balloon.write_bytes(bytes(max(0, s.f_bavail * s.f_bsize - room)))
            self.ended(self.start(kind), "disk full")
            balloon.unlink()
            return
        self.ended(self.start(kind, self.rng.choice((1000, 20_000, 100_000, 120_000))), "no room")

    def check(self, kind: str) -> None:
        """OUT is whole, at once; nothing is left, after another run in the same folders."""
        folder = self.out(kind).parent
        assert files.fingerprint(files.load_model(self.out(kind))) in self.whole[kind]
        for f in (folder, self.folder):
            files.write_bytes(f / "other", b"another run")
        staging.sweep(self.tmp, staging.SCRATCH)
        assert files.fingerprint(files.load_model(self.out(kind))) in self.whole[kind]
        left = {p.name for p in folder.iterdir()} - {"o.onnx", "o.data", "side.data", "o.side.data", "r.json", "other"}
        left |= {p.name for p in self.folder.glob(".*")} | {p.name for p in self.tmp.glob("onnx_ocs_*")}
        left -= {p.name for p in self.tmp.glob("onnx_ocs_new_*")}  # nobody locks /tmp: these are swept after an hour
        assert not left, left

    def run(self, seconds: float) -> Counter[str]:
        """Do so until the time is up; what ended how."""
        end = time.monotonic() + seconds
        works: list[Callable[[str], None]] = [self.killed, self.raced, self.filled, self.killed]
        while time.monotonic() < end:
            work, kind = self.rng.choice(works), self.rng.choice(["side", "side", "plain"])
            work(kind)
            self.check(kind)
        return self.found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=None)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tmpfs", action="store_true")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.tmpfs and not args.inside:
        os.execvp("unshare", ["unshare", "--mount", "--", sys.executable, *sys.argv, "--inside"])
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever starts this in the background has it ignored
    folder = args.folder or Path(tempfile.mkdtemp(prefix="soak_"))
    for how, times in sorted(Soak(folder, args.seed, args.tmpfs).run(60 * args.minutes).items()):
        print(f"{times:5d}  {how}")


if __name__ == "__main__":
    try:
        main()
    except UserError as e:
        sys.exit(f"not whole: {e}")
