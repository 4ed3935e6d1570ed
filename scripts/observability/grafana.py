"""Grafana's panels and dashboards as far as ours need them: plain dictionaries in, JSON out.

Everything that Grafana would number or place by hand is derived from the order here, so that
the same description always gives the same file.
"""

COLUMNS = 24
SCHEMA_VERSION = 39
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
# Colours tell the same everywhere: green is well, red wants somebody.
GOOD, WARN, BAD = "green", "orange", "red"


def query(expr, legend="", instant=False):
    """One expression of a panel."""
    return {"expr": " ".join(expr.split()), "legend": legend, "instant": instant}


def _targets(queries):
    targets = []
    for index, one in enumerate(queries):
        target = {
            "datasource": DATASOURCE,
            "editorMode": "code",
            "expr": one["expr"],
            "legendFormat": one["legend"] or "__auto",
            "range": not one["instant"],
            "refId": chr(ord("A") + index),
        }
        if one["instant"]:
            target["instant"] = True
        targets.append(target)
    return targets


def _steps(base, steps):
    first = [{"color": base, "value": None}]
    return {"mode": "absolute", "steps": first + [{"color": color, "value": value} for value, color in steps]}


def _panel(kind, title, about, queries, unit, width, height, defaults, options):
    field = {"unit": unit, **defaults}
    return {
        "type": kind,
        "title": title,
        "description": about,
        "datasource": DATASOURCE,
        "gridPos": {"w": width, "h": height},
        "fieldConfig": {"defaults": field, "overrides": []},
        "options": options,
        "targets": _targets(queries),
    }


def series(title, about, *queries, unit="short", width=8, height=8, stacked=False, steps=(), floor=0):
    """Lines over time; `steps` are thresholds that are drawn as dashed lines."""
    custom = {
        "drawStyle": "line",
        "lineWidth": 1,
        "fillOpacity": 30 if stacked else 5,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
        "thresholdsStyle": {"mode": "dashed" if steps else "off"},
    }
    defaults = {"custom": custom, "color": {"mode": "palette-classic"}, "thresholds": _steps(GOOD, steps)}
    if floor is not None:
        defaults["min"] = floor
    options = {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    return _panel("timeseries", title, about, queries, unit, width, height, defaults, options)


def figure(title, about, *queries, unit="short", width=4, height=5, base=GOOD, steps=(), decimals=None):
    """The newest value, large, and its colour."""
    defaults = {"color": {"mode": "thresholds"}, "thresholds": _steps(base, steps)}
    if decimals is not None:
        defaults["decimals"] = decimals
    options = {
        "colorMode": "background",
        "graphMode": "area",
        "justifyMode": "auto",
        "orientation": "auto",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "textMode": "value_and_name" if any(one["legend"] for one in queries) else "value",
    }
    return _panel("stat", title, about, queries, unit, width, height, defaults, options)


def rows_of_states(title, about, *queries, unit="s", width=24, height=12, steps=()):
    """One row a series and one cell a moment: a heatmap of partitions."""
    defaults = {
        "color": {"mode": "thresholds"},
        "thresholds": _steps(GOOD, steps),
        "custom": {"fillOpacity": 80, "lineWidth": 0},
    }
    options = {
        "showValue": "never",
        "rowHeight": 0.9,
        "colWidth": 1,
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": False},
        "tooltip": {"mode": "single", "sort": "none"},
    }
    return _panel("status-history", title, about, queries, unit, width, height, defaults, options)


def firing(title, about, width=8, height=10):
    """Our alerts that fire or are about to."""
    return {
        "type": "alertlist",
        "title": title,
        "description": about,
        "gridPos": {"w": width, "h": height},
        "options": {
            "alertName": "PatientNotify",
            "viewMode": "list",
            "groupMode": "default",
            "groupBy": [],
            "maxItems": 20,
            "sortOrder": 3,
            "dashboardAlerts": False,
            "stateFilter": {"firing": True, "pending": True, "noData": False, "normal": False, "error": True},
        },
    }


def row(title):
    """A heading over the panels that follow."""
    return {"type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": {"w": COLUMNS, "h": 1}}


def dashboard(uid, title, about, panels):
    """A dashboard; panels flow from left to right in the order in which they are given."""
    x = y = line = 0
    placed = []
    for number, panel in enumerate(panels, start=1):
        size = panel["gridPos"]
        if x + size["w"] > COLUMNS:
            x, y, line = 0, y + line, 0
        placed.append({**panel, "id": number, "gridPos": {"x": x, "y": y, **size}})
        x, line = x + size["w"], max(line, size["h"])
    variable = {
        "name": "datasource",
        "label": "Prometheus",
        "type": "datasource",
        "query": "prometheus",
        "hide": 0,
        "refresh": 1,
        "regex": "",
        "multi": False,
        "includeAll": False,
        "options": [],
        "current": {},
    }
    links = {
        "type": "dashboards",
        "title": "patient-notify",
        "tags": ["patient-notify"],
        "asDropdown": True,
        "includeVars": True,
        "keepTime": True,
        "icon": "external link",
        "targetBlank": False,
        "tooltip": "",
        "url": "",
    }
    return {
        "uid": uid,
        "title": title,
        "description": about,
        "tags": ["patient-notify"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "browser",
        "annotations": {"list": []},
        "links": [links],
        "templating": {"list": [variable]},
        "panels": placed,
    }
