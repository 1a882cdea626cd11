//! The style of text on a terminal.

use anstyle::AnsiColor;

use crate::plan::Action;

/// The style of text. Color is never the only carrier of a meaning.
#[derive(Clone, Copy, Debug, Default)]
pub struct Style {
    /// True to print colors.
    pub color: bool,
    /// True to print unchanged resources and the contents of new files too.
    pub verbose: bool,
    /// True to print only results, warnings and errors.
    pub quiet: bool,
}

impl Style {
    fn paint_text(self, style: anstyle::Style, text: &str) -> String {
        if self.color && !text.is_empty() { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }

    /// Makes text bold.
    pub fn bold(self, text: &str) -> String {
        self.paint_text(anstyle::Style::new().bold(), text)
    }

    /// Makes text faint.
    pub fn dim(self, text: &str) -> String {
        self.paint_text(anstyle::Style::new().dimmed(), text)
    }

    /// Paints text as a failure.
    pub fn red(self, text: &str) -> String {
        self.paint_text(AnsiColor::Red.on_default(), text)
    }

    /// Paints text in the color of an action.
    pub fn paint_action(self, action: Action, text: &str) -> String {
        match action {
            Action::Add => self.paint_text(AnsiColor::Green.on_default(), text),
            Action::Change | Action::Run => self.paint_text(AnsiColor::Yellow.on_default(), text),
            Action::Remove => self.paint_text(AnsiColor::Red.on_default(), text),
            Action::Unknown | Action::RestartRequired => self.paint_text(AnsiColor::Magenta.on_default(), text),
            Action::None => self.dim(text),
        }
    }

    /// Paints a line of a unified diff.
    pub fn paint_diff_line(self, line: &str) -> String {
        match line.as_bytes().first() {
            Some(b'+') => self.paint_text(AnsiColor::Green.on_default(), line),
            Some(b'-') => self.paint_text(AnsiColor::Red.on_default(), line),
            Some(b'@') => self.paint_text(AnsiColor::Cyan.on_default(), line),
            _ => line.to_owned(),
        }
    }
}
