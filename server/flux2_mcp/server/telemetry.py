"""OpenTelemetry: the SDK makes a span of every message it serves; where OTEL_* variables name a collector, they go there.

Without those variables nothing of OpenTelemetry's own SDK is imported, and the spans cost next to nothing. Its packages are
optional (`pip install 'flux2-mcp[otel]'`), and read their variables themselves: endpoint, headers, sampler, service name.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from flux2_mcp import __version__

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

log = logging.getLogger("flux2_mcp.server.telemetry")

FLUSH_SECONDS = 0.1
"""At the end, for what was not sent yet: a server that is stopped must be gone in half a second."""


@contextmanager
def exporting(*, wanted: bool) -> Iterator[None]:
    """Send spans while this lasts, if they are wanted. Trouble with it is logged, and never anybody's who calls a tool."""
    processor = _started() if wanted else None
    try:
        yield
    finally:
        if processor is not None:
            # It waits half a minute for a collector that does not answer, and can't be told otherwise.
            flush = threading.Thread(target=processor.shutdown, name="flux2-spans", daemon=True)
            flush.start()
            flush.join(FLUSH_SECONDS)


def _started() -> BatchSpanProcessor | None:
    try:
        return _processor()
    except ImportError:
        log.warning("no spans are sent: their packages are not installed (flux2-mcp[otel])")
    except ValueError as exc:  # some are read while the packages load
        log.warning("no spans are sent: a variable of OpenTelemetry's (OTEL_*) can't be used", exc_info=exc)
    return None


def _processor() -> BatchSpanProcessor:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.trace import set_tracer_provider

    ours = Resource({"service.name": "flux2-mcp", "service.version": __version__})
    provider = TracerProvider(resource=ours.merge(OTELResourceDetector().detect()), shutdown_on_exit=False)
    processor = BatchSpanProcessor(OTLPSpanExporter())
    provider.add_span_processor(processor)
    set_tracer_provider(provider)
    return processor
