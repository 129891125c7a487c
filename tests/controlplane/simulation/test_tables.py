import csv
import gzip
from pathlib import Path

import numpy as np
import pytest

from controlplane.simulation.tables import TableError, read_table, split, take

QUERIES = [
    ("query_id", "query_text", "domain", "task"),
    ("q1", 'what is "a, b"?\nreally', "law", "x"),
    ("q2", "1 + 1", "maths", "y"),
    ("q3", "", "maths", "y"),
]
OUTCOMES = [
    ("query_id", "model", "score", "cost_usd", "latency_s"),
    ("q2", "beta", "1", "0.5", "2.5"),
    ("q1", "alpha", "0.25", "0.1", ""),
    ("q1", "beta", "0.5", "", "1"),
    ("q2", "alpha", "0", "0.2", "3"),
    ("q3", "alpha", "1", "0.3", "3"),
]


def write(path: Path, rows) -> Path:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(rows)
    return path


@pytest.fixture(name="files")
def _files(tmp_path):
    def make(queries=QUERIES, outcomes=OUTCOMES):
        return (
            write(tmp_path / "t.queries.csv", queries),
            write(tmp_path / "t.outcomes.csv.gz", outcomes),
        )

    return make


def changed(rows, line, column, value):
    found = [list(row) for row in rows]
    found[line - 1][column] = value
    return found


def test_a_table_holds_every_arm_s_outcome_of_the_queries_that_all_answered(files):
    table = read_table(*files())
    assert table.query_ids == ("q1", "q2")
    assert table.texts == ('what is "a, b"?\nreally', "1 + 1")
    assert table.domains == ("law", "maths")
    assert table.arms == ("alpha", "beta")
    assert table.scores.tolist() == [[0.25, 0.5], [0, 1]]
    assert table.costs_usd.tolist() == [[0.1, 0.0], [0.2, 0.5]]
    assert table.latencies_s is not None
    assert np.isnan(table.latencies_s[0, 0])
    assert table.latencies_s[1].tolist() == [3, 2.5]
    assert table.output_tokens is None
    assert (table.dropped, table.blank_costs) == (1, 1)
    assert table.blanks is not None
    assert table.blanks.tolist() == [[False, True], [False, False]]
    assert (take(table, [0]).blank_costs, take(table, [1]).blank_costs) == (1, 0)


def test_fewer_arms_keep_more_queries_in_the_order_asked_for(files):
    queries, outcomes = files()
    assert read_table(queries, outcomes, ["alpha"]).query_ids == ("q1", "q2", "q3")
    assert read_table(queries, outcomes, ["beta", "alpha"]).scores[0].tolist() == [0.5, 0.25]


def test_columns_that_are_not_there_are_none(files):
    queries = [(row[0],) for row in QUERIES]
    outcomes = [row[:3] for row in OUTCOMES]
    table = read_table(*files(queries, outcomes))
    assert (table.texts, table.domains, table.latencies_s) == (None, None, None)
    assert table.costs_usd.tolist() == [[0, 0], [0, 0]]
    assert table.blank_costs == 4


def test_the_arrays_can_not_be_changed(files):
    with pytest.raises(ValueError, match="read-only"):
        read_table(*files()).scores[0, 0] = 1


@pytest.mark.parametrize(
    ("line", "column", "value", "said"),
    [
        (2, 2, "good", "row 2: column score: 'good' is not a number"),
        (3, 2, "-0.1", "row 3: column score"),
        (3, 2, "1.01", "row 3: column score"),
        (4, 2, "", "row 4: column score"),
        (4, 2, "nan", "row 4: column score"),
        (5, 3, "inf", "row 5: column cost_usd"),
        (5, 3, "1_0", "row 5: column cost_usd"),
        (6, 4, "-3", "row 6: column latency_s"),
        (6, 0, "q9", "row 6: column query_id: 'q9' is not in"),
        (3, 0, "q2", "row 5: column model: 'q2' was answered twice by 'alpha'"),
        (2, 1, " ", "row 2: column model"),
        (1, 2, "points", "row 1: column score: is missing"),
        (1, 4, "score", "row 1: column score: is there twice"),
    ],
)
def test_a_bad_outcome_is_named_by_file_row_and_column(files, line, column, value, said):
    queries, outcomes = files(outcomes=changed(OUTCOMES, line, column, value))
    with pytest.raises(TableError) as error:
        read_table(queries, outcomes)
    assert str(error.value).startswith(f"{outcomes}: {said}")


def test_rows_are_counted_in_lines_where_a_text_spans_several(files):
    # The text of q1 takes two lines, so q2 stands in line 4.
    queries, outcomes = files(queries=changed(QUERIES, 3, 0, "q1"))
    with pytest.raises(TableError, match="row 4: column query_id: 'q1' is there twice"):
        read_table(queries, outcomes)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "query_id: is missing"),
        (b"query_id,domain\nq1\n", "row 2: 1 fields where the header has 2"),
        (b"query_id\n\xff\xfe\n", "not UTF-8"),
        (b'query_id\n"q1\n', "not CSV"),
    ],
)
def test_a_file_that_is_no_table_is_refused(files, content, said):
    queries, outcomes = files()
    queries.write_bytes(content)
    with pytest.raises(TableError, match=said):
        read_table(queries, outcomes)


@pytest.mark.parametrize("keep", [0, 12, 40])
def test_a_damaged_gzip_file_is_refused(files, keep):
    queries, outcomes = files()
    outcomes.write_bytes(outcomes.read_bytes()[:keep] if keep else b"no gzip at all")
    with pytest.raises(TableError, match="not a whole gzip file"):
        read_table(queries, outcomes)


def test_a_file_that_is_not_there_or_a_folder_is_refused(files, tmp_path):
    queries, outcomes = files()
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(TableError, match="can not be read"):
            read_table(path, outcomes)
        with pytest.raises(TableError, match="can not be read"):
            read_table(queries, path)


@pytest.mark.parametrize(
    ("arms", "said"),
    [(["alpha", "gamma"], "'gamma'"), (["alpha", "alpha"], "repeat"), ([], "none")],
)
def test_arms_that_can_not_be_chosen_are_refused(files, arms, said):
    queries, outcomes = files()
    with pytest.raises(TableError, match=said):
        read_table(queries, outcomes, arms)


def test_arms_that_share_no_query_are_refused_with_the_rarest(files):
    outcomes = [OUTCOMES[0], OUTCOMES[1], OUTCOMES[2], ("q3", "alpha", "1", "0", "1")]
    with pytest.raises(TableError, match="'beta' answered the fewest: 1"):
        read_table(*files(outcomes=outcomes))


def many(n: int):
    queries = [("query_id",), *((f"q{i}",) for i in range(n))]
    outcomes = [("query_id", "model", "score"), *((f"q{i}", "a", "1") for i in range(n))]
    return queries, outcomes


def test_a_split_parts_the_queries_and_does_not_depend_on_the_others(files):
    table = read_table(*files(*many(300)))
    first, second = split(table)
    assert sorted(first.query_ids + second.query_ids) == sorted(table.query_ids)
    # 300 draws of 1/2: outside 100 to 200 once in 10⁸ salts.
    assert 100 < len(first) < 200
    some = take(table, range(0, 300, 7))
    again, _ = split(some)
    assert set(again.query_ids) == set(first.query_ids) & set(some.query_ids)
    assert split(table, salt="other")[0].query_ids != first.query_ids


@pytest.mark.parametrize("share", [0.0, 1.0, float("nan")])
def test_a_share_outside_0_to_1_is_refused(files, share):
    with pytest.raises(TableError, match="share"):
        split(read_table(*files()), share)


def test_a_split_with_an_empty_part_is_refused(files):
    with pytest.raises(TableError, match="one part empty"):
        split(read_table(*files(*many(1))))


def test_taken_rows_come_in_the_order_asked_for(files):
    table = take(read_table(*files()), [1, 0])
    assert table.query_ids == ("q2", "q1")
    assert table.scores.tolist() == [[0, 1], [0.25, 0.5]]
    assert table.domains == ("maths", "law")
    assert table.dropped == 0
