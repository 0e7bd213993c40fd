//! HTML and SVG, written so that nothing can be forgotten: every text and every attribute is escaped, every element is
//! closed.

/// A document that is being written.
#[derive(Default)]
pub(super) struct Html(String);

/// What an element says of itself.
pub(super) type Attributes<'a> = &'a [(&'a str, &'a str)];

impl Html {
    /// An HTML document that holds what `inside` writes.
    pub(super) fn document(attributes: Attributes<'_>, inside: impl FnOnce(&mut Self)) -> String {
        let mut html = Self("<!doctype html>\n".to_owned());
        html.within("html", attributes, inside);
        html.0.push('\n');
        html.0
    }

    /// An element around what `inside` writes.
    pub(super) fn within(
        &mut self,
        tag: &'static str,
        attributes: Attributes<'_>,
        inside: impl FnOnce(&mut Self),
    ) -> &mut Self {
        self.start(tag, attributes, ">");
        inside(self);
        self.0.push_str("</");
        self.0.push_str(tag);
        self.0.push('>');
        if BLOCKS.contains(&tag) {
            self.0.push('\n');
        }
        self
    }

    /// An element around `text`.
    pub(super) fn element(&mut self, tag: &'static str, attributes: Attributes<'_>, text: &str) -> &mut Self {
        self.within(tag, attributes, |html| {
            html.text(text);
        })
    }

    /// An element that holds nothing.
    pub(super) fn empty(&mut self, tag: &'static str, attributes: Attributes<'_>) -> &mut Self {
        self.start(tag, attributes, "/>\n");
        self
    }

    /// Text.
    pub(super) fn text(&mut self, text: &str) -> &mut Self {
        for c in text.chars() {
            match c {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                c => self.0.push(c),
            }
        }
        self
    }

    /// A style sheet that is part of this program; nothing in it is escaped, and nothing of a ledger may be in it.
    pub(super) fn style(&mut self, css: &'static str) -> &mut Self {
        self.0.push_str("<style>");
        self.0.push_str(css);
        self.0.push_str("</style>\n");
        self
    }

    fn start(&mut self, tag: &'static str, attributes: Attributes<'_>, end: &str) {
        self.0.push('<');
        self.0.push_str(tag);
        for (name, value) in attributes {
            self.0.push(' ');
            self.0.push_str(name);
            self.0.push_str("=\"");
            self.text(value);
            self.0.push('"');
        }
        self.0.push_str(end);
    }
}

/// After these a line ends, so that the source can be read.
const BLOCKS: [&str; 20] = [
    "html",
    "head",
    "title",
    "body",
    "header",
    "main",
    "section",
    "h1",
    "h2",
    "h3",
    "p",
    "dl",
    "dd",
    "table",
    "tr",
    "figure",
    "figcaption",
    "pre",
    "svg",
    "footer",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_written_can_open_or_close_anything() {
        let hostile = "\"'><script>&amp;</script><!--";
        let document = Html::document(&[("lang", hostile)], |html| {
            html.element("p", &[("title", hostile)], hostile);
        });
        let escaped = "&quot;&#39;&gt;&lt;script&gt;&amp;amp;&lt;/script&gt;&lt;!--";
        let expected =
            format!("<!doctype html>\n<html lang=\"{escaped}\"><p title=\"{escaped}\">{escaped}</p>\n</html>\n\n");
        assert_eq!(document, expected);
    }
}
