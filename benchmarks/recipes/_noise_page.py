"""The table of the noise of gradients."""

from _tables import markdown_table


def noise_tables(runs: list[dict]) -> str:
    """Return a row for each start and width of a head, a column for each attention: queries and keys / all others."""
    columns = list(dict.fromkeys((run["attention"], run["num_features"]) for run in runs))
    rows = {}
    for run in runs:
        width = run["hidden_dim"] // run["num_heads"]
        when = f"after {run['steps']:,} steps" if run["trained"] else "at the start"
        cells = rows.setdefault((run["bias"], when, str(width)), {})
        noise = run["noise"]
        cells[run["attention"], run["num_features"]] = f"{noise['queries and keys']:.2f} / {noise['all others']:.2f}"
    header = ["bias", "weights", "width of a head", *(f"{attention}, m = {count}" for attention, count in columns)]
    return markdown_table(
        header, [[*key, *(cells.get(column, "") for column in columns)] for key, cells in rows.items()]
    )
