//! The chart: for each program, its cost divided by the cost of the baseline.

use std::fs;

use anyhow::Result;

use super::{Measured, Who};
use crate::harness::programs::root;

const FILE: &str = "xtask/bench.svg";

const WIDTH: f64 = 900.0;
/// The x of the start and the end of the scale. The names are to its left.
const LEFT: f64 = 345.0;
const RIGHT: f64 = 840.0;
/// The y of the first row, below the title and the legend.
const TOP: f64 = 128.0;
const HEADING: f64 = 32.0;
/// The height of a row. It has two lanes: Rust above, Node below.
const ROW: f64 = 34.0;
const LANE: f64 = 7.5;

/// It has its own background, so that it can be read on light and dark pages.
const STYLE: &str = "
text { font: 14px system-ui, 'Segoe UI', Helvetica, Arial, sans-serif; fill: #1f2328 }
.title { font-size: 18px; font-weight: 600 }
.heading { font-weight: 600 }
.middle { text-anchor: middle }
.end { text-anchor: end }
.value { font-size: 12px; stroke: #ffffff; stroke-width: 4px; paint-order: stroke }
.card { fill: #ffffff; stroke: #8c959f }
.tick { stroke: #d1d9e0 }
.one { stroke: #1f2328; stroke-width: 2 }
.rust { fill: #b03a00; stroke: #b03a00; stroke-width: 2 }
.node { fill: none; stroke: #1a6e2e; stroke-width: 2 }
@media (prefers-color-scheme: dark) {
text { fill: #f0f6fc }
.value { stroke: #151b23 }
.card { fill: #151b23; stroke: #656c76 }
.tick { stroke: #3d444d }
.one { stroke: #f0f6fc }
.rust { fill: #ff9a5c; stroke: #ff9a5c }
.node { stroke: #5fd37d }
}
";

pub fn write(measured: &[Measured]) -> Result<()> {
    Ok(fs::write(root().join(FILE), draw(measured))?)
}

fn draw(measured: &[Measured]) -> String {
    let rows: Vec<_> = measured
        .iter()
        .filter_map(|measured| {
            let rust = measured.times_the_baseline(Who::Rust)?;
            let node = measured.times_the_baseline(Who::Node);
            let (example, name) = measured.row.name.split_once(": ")?;
            Some((example, name, rust, node))
        })
        .collect();
    let costs = || rows.iter().flat_map(|row| [Some(row.2), row.3]).flatten();
    let least = (costs().fold(1.0, f64::min) / 1.6).log10();
    let most = (costs().fold(10.0, f64::max) * 1.2).log10();
    let x = |times: f64| LEFT + (times.log10() - least) / (most - least) * (RIGHT - LEFT);

    let mut y = TOP;
    let mut body = String::new();
    let mut last = "";
    for (example, name, rust, node) in &rows {
        if *example != last {
            y += HEADING;
            body += &text(20.0, y - 8.0, "heading", example);
            last = example;
        }
        y += ROW;
        let middle = y - ROW / 2.0;
        body += &text(LEFT - 14.0, middle + 5.0, "end", name);
        body += &rust_mark(x(1.0), x(*rust), middle - LANE);
        body += &value(x(*rust), middle - LANE, *rust);
        if let Some(node) = node {
            body += &node_mark(x(1.0), x(*node), middle + LANE);
            body += &value(x(*node), middle + LANE, *node);
        }
    }
    let bottom = y + 8.0;
    let height = bottom + 20.0;

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

    let title = "What Rust and Node cost, as a multiple of the baseline";
    let head = [
        text(20.0, 34.0, "title", title),
        text(
            20.0,
            60.0,
            "",
            "The baseline is a bare program that does the same. A rate counts as the time for one.",
        ),
        text(
            20.0,
            84.0,
            "",
            "← Further left is better. The scale is logarithmic.",
        ),
        rust_mark(700.0, 700.0, 29.0),
        text(712.0, 34.0, "", "Rust"),
        node_mark(774.0, 780.0, 29.0),
        text(794.0, 34.0, "", "Node"),
    ];
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n\
         <rect class=\"card\" x=\"0.5\" y=\"0.5\" width=\"{}\" height=\"{}\" rx=\"6\"/>\n\
         {}{scale}{body}</svg>\n",
        WIDTH - 1.0,
        height - 1.0,
        head.concat(),
    )
}

fn text(x: f64, y: f64, class: &str, text: &str) -> String {
    format!("<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{text}</text>\n")
}

/// A figure beside its mark, on the side away from the baseline.
fn value(x: f64, y: f64, times: f64) -> String {
    let (x, class) = match times {
        ..1.0 => (x - 10.0, "value end"),
        _ => (x + 10.0, "value"),
    };
    let decimals = usize::from(times < 9.95);
    text(x, y + 4.0, class, &format!("{times:.decimals$}"))
}

/// A filled circle, at the end of a line from the baseline.
fn rust_mark(from: f64, x: f64, y: f64) -> String {
    format!(
        "<path class=\"rust\" d=\"M{from:.1} {y:.1}H{x:.1}\"/>\
         <circle class=\"rust\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\"/>\n"
    )
}

/// An empty diamond, at the end of a line from the baseline.
fn node_mark(from: f64, x: f64, y: f64) -> String {
    let left = x - 6.0;
    format!("<path class=\"node\" d=\"M{from:.1} {y:.1}H{left:.1}l6 -6l6 6l-6 6l-6 -6\"/>\n")
}
