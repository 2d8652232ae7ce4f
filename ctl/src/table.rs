//! Aligned columns of text.

/// Rows under a header; numbers to the right, everything else to the left.
pub struct Table {
    columns: Vec<Column>,
    indent: usize,
}

struct Column {
    right: bool,
    cells: Vec<String>,
}

impl Table {
    /// A column for each title; one that starts with `>` has its text at the right.
    pub fn new(titles: &[&str]) -> Self {
        let column = |title: &&str| Column {
            right: title.starts_with('>'),
            cells: vec![title.trim_start_matches('>').to_owned()],
        };
        Table { columns: titles.iter().map(column).collect(), indent: 0 }
    }

    /// Puts that many spaces in front of each line.
    pub fn indented(mut self, spaces: usize) -> Self {
        self.indent = spaces;
        self
    }

    /// Takes the first column out, where its text is in the title above.
    pub fn without_first(mut self) -> Self {
        self.columns.drain(..1.min(self.columns.len()));
        self
    }

    /// Adds a row, one cell for each column; an empty cell is shown as `-`.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        debug_assert_eq!(self.columns.len(), N, "a row has a cell for each column");
        for (column, cell) in self.columns.iter_mut().zip(cells) {
            column.cells.push(if cell.is_empty() { "-".to_owned() } else { cell });
        }
    }

    /// The text, each line ended; the empty text when there are no rows.
    pub fn render(&self) -> String {
        let rows = self.columns.first().map_or(0, |column| column.cells.len());
        if rows < 2 {
            return String::new();
        }
        (0..rows).map(|row| self.line(row)).collect()
    }

    fn line(&self, row: usize) -> String {
        let cells: Vec<String> = self.columns.iter().map(|column| column.padded(row)).collect();
        format!("{:indent$}{}\n", "", cells.join("  ").trim_end(), indent = self.indent)
    }
}

impl Column {
    fn padded(&self, row: usize) -> String {
        let width = self.cells.iter().map(|cell| cell.chars().count()).max().unwrap_or(0);
        let cell = self.cells.get(row).map_or("", String::as_str);
        if self.right { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
    }
}

/// Lines of a name and a value, the values under one another; what is empty is left out.
pub fn listing(title: &str, lines: &[(&str, String)]) -> String {
    let shown: Vec<_> = lines.iter().filter(|(_, value)| !value.is_empty()).collect();
    let width = shown.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let lines = shown.iter().map(|(name, value)| format!("  {name:<width$}  {value}\n"));
    format!("{title}\n{}", lines.collect::<String>())
}
