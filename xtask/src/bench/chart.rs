//! The chart: for each program, its cost divided by the cost of the baseline.

use std::fs;

use anyhow::Result;

use super::{Measured, Who};
use crate::harness::programs::root;

const FILE: &str = "xtask/bench.svg";

/// All but the rows. It has its own background, so that it can be read on light and dark pages.
const TEMPLATE: &str = include_str!("chart.svg");

/// The x of the start and the end of the scale. The names are to its left.
const LEFT: f64 = 345.0;
const RIGHT: f64 = 840.0;
/// The y of the first row, below the legend.
const TOP: f64 = 128.0;
const HEADING: f64 = 32.0;
const ROW: f64 = 34.0;

pub fn write(measured: &[Measured]) -> Result<()> {
    Ok(fs::write(root().join(FILE), draw(measured))?)
}

fn draw(measured: &[Measured]) -> String {
    let rows = measured.iter().filter_map(|measured| {
        let rust = measured.times_the_baseline(Who::Rust)?;
        let node = measured.times_the_baseline(Who::Node);
        let (example, name) = measured.row.name.split_once(": ")?;
        Some((example, name, rust, node))
    });
    let rows: Vec<_> = rows.collect();
    let costs = || rows.iter().flat_map(|row| [Some(row.2), row.3]).flatten();
    let least = (costs().fold(1.0, f64::min) / 1.6).log10();
    let most = (costs().fold(10.0, f64::max) * 1.2).log10();
    let x = |times: f64| LEFT + (times.log10() - least) / (most - least) * (RIGHT - LEFT);

    let (mut y, mut body, mut last) = (TOP, String::new(), "");
    for (example, name, rust, node) in &rows {
        if *example != last {
            y += HEADING;
            body += &text(20.0, y - 8.0, "heading", example);
            last = example;
        }
        y += ROW;
        body += &text(LEFT - 14.0, y - 12.0, "end", name);
        body += &mark("rust", x(1.0), x(*rust), y - 24.5, *rust);
        if let Some(node) = node {
            body += &mark("node", x(1.0), x(*node), y - 9.5, *node);
        }
    }
    let bottom = y + 8.0;

    let mut scale = String::new();
    for power in 0..=most as i32 {
        let times = 10_f64.powi(power);
        let (class, label) = match power {
            0 => ("one", "1 = baseline".to_owned()),
            _ => ("tick", format!("{times}×")),
        };
        let x = x(times);
        scale += &format!("<path class=\"{class}\" d=\"M{x:.1} {TOP}V{bottom}\"/>\n");
        scale += &text(x, TOP - 8.0, "middle", &label);
    }
    TEMPLATE
        .replace("{height}", &(bottom + 20.0).to_string())
        .replace("{card}", &(bottom + 19.0).to_string())
        .replace("{rows}", &(scale + &body))
}

fn text(x: f64, y: f64, class: &str, text: &str) -> String {
    format!("<text class=\"{class}\" x=\"{x:.1}\" y=\"{y}\">{text}</text>\n")
}

/// A mark at the end of a line from the baseline. Its figure is on the side away from the baseline.
fn mark(kind: &str, baseline: f64, x: f64, y: f64, times: f64) -> String {
    let decimals = usize::from(times < 9.95);
    let figure = format!("{times:.decimals$}");
    let figure = match times {
        ..1.0 => text(x - 10.0, y + 4.0, "value end", &figure),
        _ => text(x + 10.0, y + 4.0, "value", &figure),
    };
    format!(
        "<path class=\"{kind}\" d=\"M{baseline:.1} {y}H{x:.1}\"/>\
         <use href=\"#{kind}\" x=\"{x:.1}\" y=\"{y}\"/>\n{figure}"
    )
}
