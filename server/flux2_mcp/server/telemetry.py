"""OpenTelemetry: the MCP SDK makes a span for every message. If OTEL_* variables name a collector, the spans go there.

Without these variables, OpenTelemetry's own SDK is not imported, and the spans cost almost nothing. Its packages are
optional (`pip install 'flux2-mcp[otel]'`). They read their variables themselves: endpoint, headers, sampler, service
name.
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
"""The time for unsent spans at the shutdown: a stopped server must end within half a second."""


@contextmanager
def exporting(*, wanted: bool) -> Iterator[None]:
    """Send spans inside this context, if they are wanted. Errors are logged, and never reach a tool's caller."""
    processor = _started() if wanted else None
    try:
        yield
    finally:
        if processor is not None:
            # `shutdown` waits half a minute for a collector that does not answer, and has no other setting.
            flush = threading.Thread(target=processor.shutdown, name="flux2-spans", daemon=True)
            flush.start()
            flush.join(FLUSH_SECONDS)


def _started() -> BatchSpanProcessor | None:
    try:
        return _processor()
    except ImportError:
        log.warning("no spans are sent: their packages are not installed (flux2-mcp[otel])")
    except ValueError as exc:  # some variables are read while the packages load
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
