"""Reads PromQL far enough to know which measures an expression asks for, and which labels."""

import re

_TOKEN = re.compile(
    r"""(?P<string>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|`[^`]*`)"""
    r"""|(?P<range>\[[^\]]*\])"""
    r"""|(?P<number>\d[\w.]*|\.\d+)"""
    r"""|(?P<name>[A-Za-z_:][\w:]*)"""
    r"""|(?P<sign>=~|!~|!=|[{}()=,])"""
)
# Words that stand before a list of labels in brackets.
_GROUPING = {"by", "without", "on", "ignoring", "group_left", "group_right"}
# Words of the language that are not functions.
_WORDS = {"and", "or", "unless", "bool", "offset", "inf", "nan", "start", "end"}
# Words that need no bracket behind them: `sum by (x) (…)`.
_AGGREGATIONS = {
    "sum", "min", "max", "avg", "count", "group", "stddev", "stdvar", "topk", "bottomk", "quantile", "count_values",
}


def _tokens(expression):
    return [(match.lastgroup, match.group()) for match in _TOKEN.finditer(expression)]


def _until(tokens, at, close):
    """The names within brackets that open at `at`, and the place behind them."""
    names = []
    at += 1
    while at < len(tokens) and tokens[at][1] != close:
        if tokens[at][0] == "name":
            names.append(tokens[at][1])
        at += 1
    return names, at + 1


def selectors(expression):
    """Each measure that is asked for, with the labels that are asked of it."""
    tokens = _tokens(expression)
    found = []
    at = 0
    while at < len(tokens):
        kind, text = tokens[at]
        following = tokens[at + 1][1] if at + 1 < len(tokens) else ""
        if kind == "sign" and text == "{":
            labels, at = _until(tokens, at, "}")
            if found:
                found[-1][1].extend(labels)
        elif kind != "name" or text.lower() in _WORDS:
            at += 1
        elif text in _GROUPING:
            at = _until(tokens, at + 1, ")")[1] if following == "(" else at + 1
        elif text in _AGGREGATIONS or following == "(":
            at += 1
        else:
            found.append((text, []))
            at += 1
    return found


def grouped_by(expression):
    """Labels by which something is grouped or matched."""
    tokens = _tokens(expression)
    labels = []
    for at, (kind, text) in enumerate(tokens):
        if kind == "name" and text in _GROUPING and tokens[at + 1 : at + 2] == [("sign", "(")]:
            labels += _until(tokens, at + 1, ")")[0]
    return labels
