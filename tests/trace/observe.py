"""Runs a method's file below the real OpenTelemetry packages, as xapi's observer does
(`python3/packages/observer.py` of xapi-project/xen-api): a batch of spans that is sent when Python exits.

observe.py <file of the spans> <method's file> [argument...]
"""

import runpy
import sys

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter

spans = open(sys.argv[1], "w", encoding="utf-8")
provider = TracerProvider()
# So late that only the exit of Python sends the batch.
late = BatchSpanProcessor(ConsoleSpanExporter(out=spans), schedule_delay_millis=600_000)
provider.add_span_processor(late)
trace.set_tracer_provider(provider)
sys.argv = sys.argv[2:]
with trace.get_tracer("observer").start_as_current_span(f"run {sys.argv[0]}"):
    runpy.run_path(sys.argv[0], run_name="__main__")
