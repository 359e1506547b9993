"""What can go wrong, as types.

    Exception
     └─ TokenScopeError               everything tokenscope raises that is not a plain TypeError or ValueError
         ├─ BudgetExceeded            a scope has spent its budget
         └─ ReportFormatError         a file that is no report, is damaged, or has another format (also a ValueError)
    Warning
     └─ TokenScopeWarning             something was counted with less detail than it should have been (a UserWarning)

A wrong argument is a plain `TypeError` or `ValueError` at the line that passed it.
"""

from tokenscope._scopes.budget import BudgetExceeded
from tokenscope._usage.warnings import ReportFormatError, TokenScopeError, TokenScopeWarning

__all__ = ["BudgetExceeded", "ReportFormatError", "TokenScopeError", "TokenScopeWarning"]
