"""What a reader finds in an HTML page of the package."""

from html.parser import HTMLParser

VOID = {"meta", "img", "input"}


class Page(HTMLParser):
    """Collects elements, the text that is shown, and what stands in each mark and chip."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self.marks: list[tuple[str, str]] = []
        self.chips: list[tuple[str, str]] = []
        self.reports: list[str] = []
        self.feed(source)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        element = (tag, dict(attributes))
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)
        if element[1].get("class") == "report":
            self.reports.append("")

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        classes = [attributes.get("class", "") for _, attributes in self.open]
        if "style" in [tag for tag, _ in self.open] or {"sign", "spoken"} & set(classes):
            return
        self.text.append(data)
        if "report" in classes:
            self.reports[-1] += data
            if self.open[-1][0] == "mark":
                self.marks.append((classes[-1], data))
        if classes and classes[-1].startswith("chip "):
            self.chips.append((classes[-1].removeprefix("chip "), data))

    def all(self, tag, **wanted):
        return [found for name, found in self.elements if name == tag and wanted.items() <= found.items()]
