"""Every installed method answers the same below the observer as without it, and its span is sent.

check.py <directory of the installed plugins>
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile

HERE = os.path.dirname(os.path.abspath(__file__))


def observed(program, request, directory):
    """What a program answers below the observer: status, output, and the spans that were sent."""
    spans = os.path.join(directory, "spans")
    command = [sys.executable, os.path.join(HERE, "observe.py"), spans, program, "--json"]
    done = subprocess.run(command, input=request, capture_output=True, check=False)
    with open(spans, encoding="utf-8") as sent:
        return done.returncode, done.stdout, sent.read()


def replaces_python(directory):
    """A program that runs another one in the place of Python, which loses the batch."""
    path = os.path.join(directory, "replaces")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("__main__.py", "import os\nos.execv('/bin/true', ['true'])\n")
    return path


plugins = sys.argv[1]
methods = [
    os.path.join(plugins, kind, name, method)
    for kind, name in [("volume", "org.xen.xapi.storage.ram"), ("datapath", "ram")]
    for method in sorted(os.listdir(os.path.join(plugins, kind, name)))
    if "." in method and not method.endswith((".py", ".xml"))
]
assert len(methods) > 20, methods
with tempfile.TemporaryDirectory() as scratch:
    status, _, sent = observed(replaces_python(scratch), b"", scratch)
    assert (status, sent) == (0, ""), "this check would not see a span that is lost"
    for method in methods:
        # A request without anything that it needs: most methods refuse it.
        request = b'{"dbg": "trace"}'
        plain = subprocess.run([method, "--json"], input=request, capture_output=True, check=False)
        status, answer, sent = observed(method, request, scratch)
        assert status == plain.returncode, method
        # The memory of the host changes from moment to moment.
        assert re.sub(rb"[0-9]+", b"", answer) == re.sub(rb"[0-9]+", b"", plain.stdout), method
        span = json.loads(sent)
        assert span["name"] == f"run {method}", sent
print(f"{len(methods)} methods answer the same below OpenTelemetry, and each span is sent")
