//! Tables of what was measured. A ratio is the median over the rounds of the ratio within each:
//! what slows the machine down for a while slows both.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{
    super::load::{Load, Taken},
    hosts::Pair,
};

/// The counted runs of each pair, by its place in the list, under each load.
pub type Samples = BTreeMap<(usize, Load), Vec<Taken>>;

/// From the time that the load had on the core: on an idle machine that is all of it, and a clock
/// shows the same; on a shared one the neighbours' turns are left out.
struct Metric {
    name: &'static str,
    load: Load,
    unit: &'static str,
    digits: usize,
    of: fn(&Taken) -> f64,
}

const fn rate(name: &'static str, load: Load) -> Metric {
    Metric { name, load, unit: "per_s", digits: 0, of: |run| 1e9 / run.cost }
}

/// In the order in which README shows them.
const RATES: [Metric; 4] = [
    rate("tcp_stream", Load::Stream),
    rate("udp_64", Load::Packets),
    rate("request_response", Load::Requests),
    rate("connect_request", Load::Connects),
];

const fn cost(name: &'static str, load: Load, digits: usize) -> Metric {
    Metric { name, load, unit: "ns", digits, of: |run| run.cost }
}

const fn long(name: &'static str, load: Load) -> Metric {
    Metric { name, load, unit: "us", digits: 1, of: |run| run.cost / 1e3 }
}

const COSTS: [Metric; 4] = [
    cost("cpu_per_byte", Load::Stream, 3),
    cost("cpu_per_packet", Load::Packets, 0),
    long("latency", Load::Requests),
    long("cpu_per_connect", Load::Connects),
];

struct Figure {
    median: f64,
    ratio: f64,
    /// The smallest and largest ratio of a round.
    spread: (f64, f64),
    runs: usize,
}

impl Metric {
    /// Beside host to host, which is the first of the pairs.
    fn figure(&self, samples: &Samples, at: usize) -> Figure {
        let of = |at: usize| samples[&(at, self.load)].iter().map(self.of);
        let ratios: Vec<f64> = of(at).zip(of(0)).map(|(one, floor)| one / floor).collect();
        let of_all = |pick: fn(f64, f64) -> f64| ratios.iter().copied().fold(f64::NAN, pick);
        Figure {
            median: median(of(at)),
            ratio: median(ratios.iter().copied()),
            spread: (of_all(f64::min), of_all(f64::max)),
            runs: ratios.len(),
        }
    }

    /// What a clock showed, whoever else was on the core.
    fn clock(&self, samples: &Samples, at: usize) -> f64 {
        median(samples[&(at, self.load)].iter().map(|run| run.per_s))
    }
}

pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Prints what gets through, then what it costs.
pub fn table(pairs: &[Pair], samples: &Samples) -> Value {
    let mut figures = Map::new();
    for (title, metrics) in [("ratio to host to host", &RATES[..]), ("cost (and ratio)", &COSTS)] {
        print!("\n{title:<28}");
        for Metric { name, unit, .. } in metrics {
            let unit = if *unit == "per_s" { "" } else { unit };
            print!(" {:>18}", format!("{name} {unit}").trim());
        }
        println!();
        for (at, pair) in pairs.iter().enumerate() {
            print!("{:<28}", pair.name);
            for metric in metrics {
                let Figure { median, ratio, spread, runs } = metric.figure(samples, at);
                print!(
                    " {:>18}",
                    match metric.unit {
                        "per_s" => format!("{ratio:.2}"),
                        _ => format!("{median:.*} ({ratio:.2})", metric.digits),
                    }
                );
                let key = format!("{}.{}", pair.name.replace(' ', "_"), metric.name);
                let spread = [spread.0, spread.1];
                figures.insert(
                    key,
                    json!({
                        "ratio": ratio, metric.unit: median, "spread": spread, "runs": runs,
                        "clock_per_s": metric.clock(samples, at),
                    }),
                );
            }
            println!();
        }
    }
    Value::Object(figures)
}

/// Whether the figures can be trusted: was it all on one core, did datagrams get lost, how far
/// did the rounds differ.
pub fn conditions(pairs: &[Pair], samples: &Samples) -> Value {
    let all = || samples.values().flatten();
    let packets = || samples.iter().filter(|((_, load), _)| *load == Load::Packets);
    let share = median(all().map(|run| run.share));
    let elsewhere = median(all().map(|run| run.elsewhere));
    let lost = packets().flat_map(|(_, runs)| runs).map(|run| run.lost).fold(0.0, f64::max);
    let mut widths: Vec<f64> = Vec::new();
    for metric in RATES.iter().chain(&COSTS) {
        widths.extend((1..pairs.len()).map(|at| {
            let figure = metric.figure(samples, at);
            (figure.spread.1 - figure.spread.0) / figure.ratio / 2.0
        }));
    }
    let widest = widths.iter().copied().fold(f64::NAN, f64::max);
    let spread = median(widths.into_iter());
    println!(
        "\nof the core, the load had {share:.2}; packets received on other cores {elsewhere:.3}; \
         datagrams lost, at worst, {lost:.3};\nthe rounds' ratios differ by ±{spread:.3} (median), ±{widest:.3} (widest)"
    );
    json!({
        "core_share": share, "received_elsewhere": elsewhere, "udp_lost": lost,
        "spread": spread, "widest_spread": widest,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(cost: f64) -> Taken {
        Taken { per_s: 1.0, cost, share: 1.0, elsewhere: 0.0, lost: 0.0 }
    }

    /// In the last case the ratio of the medians is 0.25.
    #[test]
    fn a_ratio_is_of_one_round() {
        let floor = [1.0, 2.0, 4.0].map(run);
        let other = [2.0, 4.0, 8.0].map(run);
        let mut samples = Samples::from([((0, Load::Packets), floor.to_vec())]);
        samples.insert((1, Load::Packets), other.to_vec());
        let figure = RATES[1].figure(&samples, 1);
        assert_eq!((figure.ratio, figure.spread, figure.runs), (0.5, (0.5, 0.5), 3));
        samples.insert((1, Load::Packets), [2.0, 8.0, 8.0].map(run).to_vec());
        let figure = RATES[1].figure(&samples, 1);
        assert_eq!((figure.ratio, figure.spread), (0.5, (0.25, 0.5)));
    }
}
