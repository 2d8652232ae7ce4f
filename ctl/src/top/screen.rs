//! The live screen of `weftctl top`: one report after the other, until somebody presses `q`.

use std::time::{Duration, Instant};

use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::style::Stylize;
use ratatui::text::Line;
use ratatui::widgets::Paragraph;

use super::report::Report;
use crate::Error;

/// What a key asks for.
enum Wish {
    End,
    Scroll(i32),
    Nothing,
}

/// Shows a report every `delay`; `look` makes the next one.
pub fn run(
    delay: Duration,
    mut look: impl FnMut(&mut Option<Report>) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut terminal = ratatui::try_init().map_err(Error::Output)?;
    let mut show = || -> Result<(), Error> {
        let (mut report, mut top) = (None, 0u16);
        // Rates of no time at all would be any.
        let mut next = Instant::now() + delay.min(Duration::from_millis(500));
        loop {
            if Instant::now() >= next {
                look(&mut report)?;
                next = Instant::now() + delay.max(Duration::from_millis(100));
            }
            terminal.draw(|frame| draw(frame, report.as_ref(), &mut top)).map_err(Error::Output)?;
            if !event::poll(next.saturating_duration_since(Instant::now())).map_err(Error::Output)? {
                continue;
            }
            match wish(&event::read().map_err(Error::Output)?) {
                Wish::End => return Ok(()),
                Wish::Scroll(lines) => top = top.saturating_add_signed(lines as i16),
                Wish::Nothing => {}
            }
        }
    };
    let outcome = show();
    // What goes wrong now is of no interest to anybody.
    let _ = ratatui::try_restore();
    outcome
}

fn wish(event: &Event) -> Wish {
    let Event::Key(KeyEvent { code, modifiers, kind: KeyEventKind::Press, .. }) = event else {
        return Wish::Nothing;
    };
    match code {
        KeyCode::Char('q') | KeyCode::Esc => Wish::End,
        KeyCode::Char('c') if modifiers.contains(KeyModifiers::CONTROL) => Wish::End,
        KeyCode::Down | KeyCode::Char('j') => Wish::Scroll(1),
        KeyCode::Up | KeyCode::Char('k') => Wish::Scroll(-1),
        KeyCode::PageDown => Wish::Scroll(20),
        KeyCode::PageUp => Wish::Scroll(-20),
        _ => Wish::Nothing,
    }
}

fn draw(frame: &mut Frame<'_>, report: Option<&Report>, top: &mut u16) {
    let lines = report.map(lines).unwrap_or_default();
    let room = frame.area().height;
    *top = (*top).min((lines.len() as u16).saturating_sub(room));
    frame.render_widget(Paragraph::new(lines).scroll((*top, 0)), frame.area());
}

/// Workers and limits come first: there are few of them, and of ports there may be a thousand.
fn lines(report: &Report) -> Vec<Line<'static>> {
    let mut lines = vec![Line::from("weftctl top    q: end, arrows: scroll".to_owned()).dim()];
    let mut parts = report.parts();
    parts.rotate_left(1);
    for (title, text) in parts {
        lines.push(Line::default());
        lines.push(Line::from(title).bold());
        for (at, line) in text.lines().enumerate() {
            let line = Line::from(line.to_owned());
            // A table's titles.
            lines.push(if at == 0 && text.lines().nth(1).is_some() { line.underlined() } else { line });
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use weft_config::control::{TopStatus, TopWorker};

    #[test]
    fn the_screen_has_every_part_and_scrolls_no_further_than_its_end() {
        let workers = (0..30).map(|index| TopWorker { index, ..TopWorker::default() }).collect();
        let now = TopStatus { uptime_ms: 1000, workers, ..TopStatus::default() };
        let report = Report::new(&TopStatus::default(), &now);
        let mut terminal = Terminal::new(TestBackend::new(60, 20)).unwrap_or_else(|error| match error {});
        let mut top = 0;
        let drawn = terminal.draw(|frame| draw(frame, Some(&report), &mut top)).is_ok();
        assert!(drawn && top == 0);
        let text = format!("{}", terminal.backend());
        assert!(text.contains("workers") && text.contains("hit rate"), "{text}");
        top = 1000;
        assert!(terminal.draw(|frame| draw(frame, Some(&report), &mut top)).is_ok());
        assert!(usize::from(top) <= lines(&report).len(), "{top}");
    }

    #[test]
    fn keys_end_it_and_scroll() {
        let press = |code, modifiers| wish(&Event::Key(KeyEvent::new(code, modifiers)));
        assert!(matches!(press(KeyCode::Char('q'), KeyModifiers::NONE), Wish::End));
        assert!(matches!(press(KeyCode::Char('c'), KeyModifiers::CONTROL), Wish::End));
        assert!(matches!(press(KeyCode::Char('c'), KeyModifiers::NONE), Wish::Nothing));
        assert!(matches!(press(KeyCode::PageDown, KeyModifiers::NONE), Wish::Scroll(20)));
    }
}
