"""Reports: what was spent and how long it took, by any dimension of a call. Owns rows and rollups; knows no journal."""

from buspass.reports.rollups import TAIL, Rollups, tail
from buspass.reports.rows import Dimensions, Row, Table, by_day, merge

__all__ = ["TAIL", "Dimensions", "Rollups", "Row", "Table", "by_day", "merge", "tail"]
