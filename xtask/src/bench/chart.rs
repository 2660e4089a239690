//! The figures as a chart: how many times the limit's cost each row has, on a log scale.

use anyhow::{Result, anyhow};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::{Measured, Who};
use crate::programs;

/// In the README's folder.
const FILE: &str = "xtask/bench.svg";

const ROW_HEIGHT: usize = 26;

/// These, and a background that shows through, are read on white as on black.
const TEXT: RGBColor = RGBColor(128, 128, 128);
const PORT: RGBColor = RGBColor(222, 100, 40);
const NODE: RGBColor = RGBColor(70, 150, 70);

pub fn write(measured: &[Measured]) -> Result<()> {
    let rows: Vec<&Measured> = measured
        .iter()
        .filter(|row| row.times_the_limit(Who::Port).is_some())
        .collect();
    let path = programs::root().join(FILE);
    let height = (rows.len() * ROW_HEIGHT + 100) as u32;
    let area = SVGBackend::new(&path, (900, height)).into_drawing_area();
    draw(&area, &rows).map_err(|error| anyhow!("cannot draw: {error}"))?;
    area.present()
        .map_err(|error| anyhow!("cannot write {FILE}: {error}"))
}

fn draw<B: DrawingBackend>(
    area: &DrawingArea<B, plotters::coord::Shift>,
    rows: &[&Measured],
) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
    let worst = rows
        .iter()
        .flat_map(|row| [Who::Port, Who::Node].map(|who| row.times_the_limit(who)))
        .flatten()
        .fold(10.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .margin_top(24)
        .margin_right(30)
        .set_label_area_size(LabelAreaPosition::Left, 390)
        .set_label_area_size(LabelAreaPosition::Bottom, 50)
        .build_cartesian_2d((0.5..worst * 1.5).log_scale(), 0.0..rows.len() as f64)?;
    let text = |size: u32| ("sans-serif", size).into_font().color(&TEXT);
    chart
        .configure_mesh()
        .disable_y_axis()
        .disable_y_mesh()
        .x_desc("times the cost of the limit, on a log scale")
        .x_label_formatter(&|value| format!("{value}"))
        .label_style(text(13))
        .axis_desc_style(text(14))
        .axis_style(TEXT)
        .bold_line_style(TEXT.mix(0.4))
        .light_line_style(TEXT.mix(0.1))
        .draw()?;

    for (x, color, who) in [(640, PORT, "port"), (720, NODE, "Node")] {
        area.draw(&Circle::new((x, 10), 6, color.filled()))?;
        area.draw(&Text::new(who, (x + 12, 3), text(13)))?;
    }
    let label = text(13).pos(Pos::new(HPos::Right, VPos::Center));
    for (number, row) in rows.iter().enumerate() {
        let y = rows.len() as f64 - number as f64 - 0.5;
        let (_, pixel) = chart.backend_coord(&(1.0, y));
        area.draw(&Text::new(row.row.name, (390, pixel), label.clone()))?;
        for (who, color) in [(Who::Node, NODE), (Who::Port, PORT)] {
            if let Some(times) = row.times_the_limit(who) {
                chart.draw_series([Circle::new((times, y), 6, color.filled())])?;
            }
        }
    }
    Ok(())
}
