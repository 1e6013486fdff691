"""HTML written as nested calls: every text is escaped, and every tag is closed."""

import html

_VOID = ("img", "meta", "wbr")  # have no content, hence no closing tag


class Html(str):
  """Text that is HTML already; any other str is text to be escaped."""


def element(tag: str, *content: str, **attributes: str | int | None) -> Html:
  """One element.

  Args:
    tag: its name.
    *content: what it holds, in order: Html as it is, other strings escaped.
    **attributes: its attributes, escaped; `class_` is class, `data_label` is data-label, and
      one that is None is left out.
  """
  start = tag
  for name, value in attributes.items():
    if value is not None:
      start += f' {name.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
  if tag in _VOID:
    return Html(f"<{start}>")
  return Html(f"<{start}>{joined(*content)}</{tag}>")


def joined(*content: str) -> Html:
  """Contents beside each other."""
  return Html("".join(text if isinstance(text, Html) else html.escape(text) for text in content))


def breakable(name: str) -> Html:
  """A name such as cifar10/resnet18/squared_error, which a narrow column breaks after a slash."""
  first, *rest = name.split("/")
  return joined(first, *(joined("/", element("wbr"), part) for part in rest))
