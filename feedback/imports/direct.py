"""Imported rows as the direct method reads them."""

from collections.abc import Sequence

import numpy as np

from learners.features import Schema
from learners.ope.logs import Imported
from storage.imported import ImportedRow


def encode(rows: Sequence[ImportedRow], schema: Schema, arms: tuple[str, ...]) -> Imported:
    """Rows as columns, their propensity NaN where there is none; no learner takes these.

    Rows that an arm outside ``arms`` served are left out.

    Raises:
        ContextError: A context does not fit the schema.
    """
    index = {arm: i for i, arm in enumerate(arms)}
    kept = [row for row in rows if row.action in index]
    eligible = np.array([[arm in row.eligible for arm in arms] for row in kept], dtype=np.bool_)
    unknown = float("nan")
    return Imported(
        arms=arms,
        x=schema.encode_all([row.context for row in kept]),
        eligible=eligible.reshape(len(kept), len(arms)),
        action=np.array([index[row.action] for row in kept], dtype=np.int64),
        propensity=np.array(
            [unknown if row.propensity is None else row.propensity for row in kept],
            dtype=np.float64,
        ),
        reward=np.array([row.reward for row in kept], dtype=np.float64),
    )
