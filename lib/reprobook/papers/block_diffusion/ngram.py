"""A judge of characters that no neural network is: an interpolated Kneser-Ney n-gram, fitted on the training text."""

from __future__ import annotations

import numpy as np

from reprobook.errors import ReprobookError

LARGEST_TABLE = 2**24  # probabilities of the longest n-gram


class KneserNey:
    """Interpolated Kneser-Ney over ``n_tokens`` symbols, dense: p(w | c) = max(N(cw) - D, 0) / N(c) + D N1+(c.) / N(c)
    times p(w | shorter c), N the counts of the longest n-grams and, of shorter ones, in how many contexts they occur.

    rows: (n, L) token ids; n-grams do not cross rows. D = n1 / (n1 + 2 n2) for every length, from the numbers of
    n-grams that occur once and twice.
    """

    def __init__(self, rows: np.ndarray, n_tokens: int, order: int = 5) -> None:
        if order < 2 or n_tokens**order > LARGEST_TABLE:
            raise ReprobookError(f"order {order} of {n_tokens} symbols: at least 2, at most {LARGEST_TABLE} n-grams")
        self.n_tokens, self.order = n_tokens, order
        counts = np.bincount(self._codes(rows), minlength=n_tokens**order).reshape(-1, n_tokens).astype(np.float32)
        tables = [counts]
        for _ in range(order - 1):  # of shorter n-grams count in how many contexts they occur
            tables.append((tables[-1].reshape(n_tokens, -1) > 0).sum(0).reshape(-1, n_tokens).astype(np.float32))
        p = np.full((1, n_tokens), 1 / n_tokens, dtype=np.float32)
        for table in reversed(tables):
            once, twice = (table == 1).sum(), (table == 2).sum()
            discount = once / (once + 2 * twice) if once and twice else 0.5
            total, kinds = table.sum(1, keepdims=True), (table > 0).sum(1, keepdims=True)
            shorter = np.tile(p, (len(table) // len(p), 1))
            seen = (np.maximum(table - discount, 0) + discount * kinds * shorter) / np.maximum(total, 1)
            p = np.where(total > 0, seen, shorter)
        self.log_p = np.log(p).ravel()

    def _codes(self, rows: np.ndarray) -> np.ndarray:
        """Numbers of all n-grams of the rows, row by row."""
        windows = np.lib.stride_tricks.sliding_window_view(np.asarray(rows, dtype=np.int64), self.order, axis=1)
        return (windows @ self.n_tokens ** np.arange(self.order - 1, -1, -1)).ravel()

    def token_nll(self, rows: np.ndarray) -> np.ndarray:
        """Nats (n, L - order + 1) of the tokens that have a whole context in their row."""
        return -self.log_p[self._codes(rows)].reshape(len(rows), -1)


def counted_nll(train: np.ndarray, rows: np.ndarray, n_tokens: int, most: int) -> dict[int, np.ndarray]:
    """The laziest reader: NLL (n,) per token of ``rows`` by counts of 2 to ``most`` tokens in ``train``. Position 0 is
    context; tokens near it are judged by the longest n-gram that fits."""
    each = {order: KneserNey(train, n_tokens, order).token_nll(rows) for order in range(2, most + 1)}
    return {
        order: np.concatenate([*(each[k][:, :1] for k in range(2, order)), each[order]], 1).mean(1) for order in each
    }
