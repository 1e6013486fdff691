"""The two ways in which a run ends early, told apart by the exit status of the command line."""


class UserError(ValueError):
  """The request cannot be carried out as written; nothing was computed or changed. Exit 2."""


class RunError(RuntimeError):
  """The run itself failed; what was saved before is whole. Exit 1."""
