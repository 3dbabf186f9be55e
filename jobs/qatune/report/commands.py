"""`qatune report`: the page of a run, or of several side by side."""

from pathlib import Path

import click

from qatune.options import checked_name, store_option


@click.command()
@click.argument("run_names", metavar="RUN...", nargs=-1, required=True)
@store_option
@click.option("--output", default="report.html", show_default=True, help="File to write.")
def report(run_names: tuple[str, ...], store_uri: str, output: str) -> None:
    """Write the page of RUN, or of several runs side by side: one file that works offline."""
    from qatune.report import comparison_page, html, page, several, summary
    from qatune.store.opening import open_store

    names = [checked_name(name) for name in run_names]
    store = open_store(store_uri)
    if len(names) == 1:
        page.write_report(store, names[0], Path(output))
    else:
        compared = several.comparison(store, names)
        html.write(Path(output), comparison_page.render_comparison(compared))
        summary.print_comparison(compared)
    click.echo(output)
