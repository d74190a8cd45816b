#!/usr/bin/env python3
"""SQL over distributions, beside DuckDB on the same files.

    scripts/bench_sql.py runs/real-smollm2/topk/teacher=gemma3 target/sql --rows 25000000

Copies the first part of a `topk`, its lists cut to ten entries, under other sample numbers until there are so
many rows, and times statements by `fuselm sql` and by DuckDB with the statements of `fuselm sql --setup duckdb`:
medians of three, two threads, the files in the system's cache. Needs pyarrow, numpy and duckdb.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import time

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

STATEMENTS = {
    "count and mean of the true token": "SELECT COUNT(*), AVG(CAST(target_logprob AS DOUBLE)) FROM topk",
    "group by true token": "SELECT target_id, COUNT(*) AS n FROM topk GROUP BY target_id ORDER BY n DESC LIMIT 3",
    "ids of all lists": "SELECT SUM(array_length(ids)), MAX(ids[1]) FROM topk",
    "probabilities of all lists": "SELECT AVG(CAST(logprobs[1] AS DOUBLE)) FROM topk",
}
LISTED = 10
PART_ROWS = 1_000_000


def cut(column, most):
    """Lists with their first entries alone."""
    offsets, values = column.offsets.to_numpy(), column.values.to_numpy()
    lengths = np.minimum(np.diff(offsets), most)
    ends = np.concatenate([[0], np.cumsum(lengths)])
    kept = np.repeat(offsets[:-1], lengths) + np.arange(ends[-1]) - np.repeat(ends[:-1], lengths)
    return pa.ListArray.from_arrays(pa.array(ends.astype(np.int32)), pa.array(values[kept])).cast(column.type)


def multiply(source, run, rows):
    path = source / "part-00000.parquet"
    table, metadata = pq.read_table(path), pq.read_metadata(path).metadata
    columns = {name: table.column(name).combine_chunks() for name in table.schema.names}
    for name in ("id_gaps", "levels"):
        columns[name] = cut(columns[name], LISTED)
    columns["target_place"] = pa.array(np.minimum(columns["target_place"].to_numpy(), LISTED))
    samples = columns["sample_id"].to_numpy()
    footer = json.loads(metadata[b"fuselm"])
    count = footer["part"]["samples"]
    copies = max(1, PART_ROWS // table.num_rows)
    parts = -(-rows // (copies * table.num_rows))
    out = run / "topk" / source.name
    out.mkdir(parents=True)
    for part in range(parts):
        first = part * copies * count
        shifted = [
            {**columns, "sample_id": pa.array(samples + np.uint64(first + copy * count))} for copy in range(copies)
        ]
        schema = table.schema.remove_metadata()
        whole = pa.concat_tables(pa.table(c, schema=schema) for c in shifted)
        footer["part"].update(index=part, first_sample=first, samples=copies * count, last=part + 1 == parts)
        whole = whole.replace_schema_metadata({b"fuselm": json.dumps(footer).encode()})
        pq.write_table(
            whole, out / f"part-{part:05}.parquet", compression="zstd", compression_level=3, row_group_size=131_072
        )
    return parts * copies * table.num_rows


def median(run, times=3):
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("topk", type=pathlib.Path, help="folder of a `topk` with at least a part")
    parser.add_argument("run", type=pathlib.Path, help="run folder to make; used as it is where it exists")
    parser.add_argument("--rows", type=int, default=25_000_000)
    parser.add_argument("--fuselm", default="target/release/fuselm")
    arguments = parser.parse_args()
    if not arguments.run.exists():
        print(f"{multiply(arguments.topk, arguments.run, arguments.rows):,} rows")
    sql = [arguments.fuselm, "sql", "--run", str(arguments.run)]
    setup = subprocess.run([*sql, "--setup", "duckdb"], check=True, capture_output=True, text=True).stdout
    other = duckdb.connect()
    other.execute("SET threads = 2")
    other.execute(setup)
    print("| statement | fuselm sql | DuckDB |\n|---|---:|---:|")
    for name, statement in STATEMENTS.items():
        own = [*sql, "--threads", "2", "--format", "csv", statement]
        ours = median(lambda: subprocess.run(own, check=True, capture_output=True))
        theirs = median(lambda: other.execute(statement.replace("array_length", "len")).fetchall())
        print(f"| {name} | {ours:.2f} s | {theirs:.2f} s |", flush=True)


if __name__ == "__main__":
    main()
