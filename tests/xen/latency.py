"""Compares the latencies in the graphs of latency.sh, read by a reader of its own, with those that the guest has
measured.

latency.py <directory of what latency.sh has left>
"""

import glob
import json
import os
import re
import subprocess
import sys

READER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../e2e/graphs_reader.py")
out = sys.argv[1]


def graphs(name):
    """The first copy that was not taken while the file was written."""
    for copy in sorted(glob.glob(os.path.join(out, f"graphs-{name}-*"))):
        told = subprocess.run([sys.executable, READER, copy], capture_output=True)
        if told.returncode == 0:
            return json.loads(told.stdout)["values"]
    sys.exit(f"latency.py: no copy of the graphs ({name}) can be read: {told.stderr.decode()}")


with open(os.path.join(out, "guests/guest-g1.log"), errors="replace") as log:
    loads = re.findall(r"load: \d+ reads of (\d+) us, \d+ writes of (\d+) us", log.read())
wrong = 0
for name, measured in zip(("plain", "slow"), loads, strict=True):
    values = graphs(name)
    for way, guest in zip(("read", "write"), map(int, measured)):
        # Of the SR, and of the guest's disk.
        for series in (f"{way}_latency_7c4f0f6e", f"vbd_xvda_{way}_latency"):
            told = values[series]["value"]
            # As it is, the tapdisk's time is a part of the guest's.
            good = abs(told - guest) <= guest * 0.05 if name == "slow" else 0 < told < guest * 1.05
            wrong += not good
            print(f"{'ok' if good else 'not ok'} - {name}: {series} {told:.0f} us, the guest {guest} us")
sys.exit(wrong > 0)
