"""What can be measured of a hub: every metric declared once, and the table that sinks which show metrics read.

`catalogue` says which there are and what each protocol calls them, `table` what they are now, and `usage` what the
processes of models use. A sink that shows metrics subclasses `MetricSink` and shows `samples()` its way.
"""

from mlxhub_core.metrics.catalogue import (
    CATALOGUE,
    START_DURATION_BUCKETS,
    Kind,
    Metric,
    otlp_name,
    prometheus_name,
    statsd_name,
)
from mlxhub_core.metrics.table import MAX_EXIT_CODES, OTHER, Histogram, MetricSink, Sample, Usage

__all__ = [
    "CATALOGUE",
    "MAX_EXIT_CODES",
    "OTHER",
    "START_DURATION_BUCKETS",
    "Histogram",
    "Kind",
    "Metric",
    "MetricSink",
    "Sample",
    "Usage",
    "otlp_name",
    "prometheus_name",
    "statsd_name",
]
