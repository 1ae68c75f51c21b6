"""Pages from templates: everything is escaped, and a page that stands alone holds its style, script and drawings.

Templates escape every text that is no `Markup`. A page that stands alone loads nothing, and its content security policy
allows only its own script, by its hash: a text in the data cannot run even if it got past the escaping.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from textenv.pages import charts, numbers

STATIC = Path(__file__).parent / "static"
"""Style sheets and scripts that pages share."""

_CONTROLS = {code: "\ufffd" for code in [*range(0x20), *range(0x7F, 0xA0)] if chr(code) not in "\t\n"}


class Section(NamedTuple):
    """A section of a page.

    Attributes:
        key: Its anchor, and with underscores the name of its macro in the page's template of sections.
        short: Its name in the navigation.
        title: Its heading.
        values: What its macro is given.
    """

    key: str
    short: str
    title: str
    values: tuple[Any, ...] = ()


@cache
def environment(package: str) -> Environment:
    """Templates of a package, which see those of the kit too; a value that is missing is an error, never a blank."""
    found = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("textenv.pages")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    formats = (numbers.fixed, numbers.short, numbers.percent, numbers.duration, numbers.shown, numbers.between)
    drawings = (charts.whisker, charts.scale, charts.stacked, charts.columns)
    found.globals |= {each.__name__: each for each in (*formats, *drawings)}
    return found


def render(package: str, template: str, **values: Any) -> str:
    """A template of a package as text that UTF-8 can hold: control characters and lone surrogates are replaced."""
    page = environment(package).get_template(template).render(**values)
    return page.translate(_CONTROLS).encode("utf-8", "replace").decode("utf-8")


def render_alone(
    package: str, template: str, *, styles: Sequence[Path], scripts: Sequence[Path], data: Any = None, **values: Any
) -> str:
    """A page that needs no file beside itself.

    Args:
        package: Where the template is.
        template: Its name; it extends ``frame.html``.
        styles: Style sheets, which may overrule earlier ones.
        scripts: Joined into the page's only script.
        data: For the script, as JSON in the element ``data``; None leaves it out.
        values: What the template shows.
    """
    source = "\n".join(path.read_text("utf-8") for path in scripts)
    digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
    return render(
        package,
        template,
        style=Markup("\n".join(path.read_text("utf-8") for path in styles)),
        script=Markup(source),
        policy=Markup("default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{}'; img-src data:").format(
            digest
        ),
        data=None if data is None else _inside_script(data),
        **values,
    )


def render_report(package: str, sections_template: str, sections: Sequence[Section], **values: Any) -> str:
    """A report that stands alone: a headline, a bar of links, and sections.

    Args:
        package: Where the templates are.
        sections_template: One macro per section.
        sections: In their order.
        values: What ``report.html`` shows beside them: title, kicker, headline, opening, footer.
    """
    styles = [STATIC / name for name in ("theme.css", "charts.css", "report.css")]
    scripts = [STATIC / name for name in ("tables.js", "tips.js")]
    values = {"opening": "", **values, "sections": sections, "sections_template": sections_template}
    return render_alone(package, "report.html", styles=styles, scripts=scripts, **values)


def _inside_script(data: Any) -> Markup:
    """JSON that no text inside can end: a closing tag, or what JavaScript takes for the end of a line."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))
