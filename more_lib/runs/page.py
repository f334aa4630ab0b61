"""HTML pages that are whole in themselves: nothing is fetched, no script runs, all text escaped."""

from pathlib import Path

from more_lib.system.files import atomic_file


def write_page(template: str, path: Path, **values: object) -> Path:
    """Fill one of ``templates`` with ``values``, write the page and return its path.

    Raises ``InputError`` when it cannot be written there.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("more_lib.runs", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(template).render(values)
    with atomic_file(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path
