"""Expressions that panels share."""

# What became of a delivery for good, by channel.
ENDS = "patient_notify_delivery_ends_total"


def rate(measure, by="", where="", window="$__rate_interval"):
    """Sum of a counter's rates."""
    grouped = f"sum by ({by})" if by else "sum"
    labels = f"{{{where}}}" if where else ""
    return f"{grouped} (rate({measure}{labels}[{window}]))"


def quantile(share, measure, by="", where=""):
    """A quantile of a histogram in classic buckets."""
    grouped = f"{by}, le" if by else "le"
    labels = f"{{{where}}}" if where else ""
    return f"histogram_quantile({share}, sum by ({grouped}) (rate({measure}_bucket{labels}[$__rate_interval])))"
