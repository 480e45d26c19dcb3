"""The table of rates.sh: requests a second, and what the tapdisk called the kernel for.

An event takes three calls (epoll_wait, and read and write of the channel's port), each copy and each
notification one. blktap's tapdisk makes five for a request at depth 1, and copies for each request by
itself at any depth.
"""

import json
import pathlib
import re
import sys

# In so many samples without a request between them the guest rests. (A sample takes an emulated host two seconds and more.)
REST = 3
out = pathlib.Path(sys.argv[1])


def counters(line):
    stats = json.loads(line)
    events, notified = stats["xenbus"]["kicks"]
    return [stats["xenbus"]["reqs"][1], events, notified, stats["ring_copies"]]


samples = [counters(line) for line in (out / "rates-stats").read_text().splitlines() if "xenbus" in line]
# Those of each rest, once.
rests = [now for at, now in enumerate(samples)
         if samples[at:at + REST].count(now) == REST and (at == 0 or samples[at - 1] != now)]
lines = [line.strip() for line in (out / "rates-guest").read_text().splitlines()]
assert len(rests) == len(lines) + 1, f"{len(rests)} rests beside {len(lines)} loads: {rests}"
status = 0
for line, before, after in zip(lines, rests, rests[1:]):
    way, threads, count, seconds = re.fullmatch(
        r"rates: (\w+) (\d+): (\d+) in ([0-9.]+) s", line).groups()
    requests, *calls = (b - a for a, b in zip(before, after))
    assert requests == int(count), f"{line}: the tapdisk has answered {requests}"
    events, notified, copies = (calls / requests for calls in calls)
    total = 3 * events + notified + copies
    print(f"{way:5} {threads:>2} threads: {requests / float(seconds):6.0f} a second; for each request "
          f"{copies:.2f} copies, {notified:.2f} notifications, {events:.2f} events: {total:.2f} calls")
    # One request at a time takes no more than one copy, and no more calls than blktap makes.
    most = (1.02, 5.1) if threads == "1" else (0.7, 3.5)
    if copies > most[0] or total > most[1]:
        print(f"more than {most[0]} copies or {most[1]} calls for each request")
        status = 1
sys.exit(status)
