//! The tables were printed by a Go 1.26 program that called `time.ParseDuration` and
//! `Duration.String`.

use proptest::prelude::*;

use super::*;

type Parsed = Result<(i64, &'static str), &'static str>;

/// Text, and what Go makes of it: nanoseconds and its own spelling, or its error without the
/// package prefix.
#[rustfmt::skip]
const PARSED_BY_GO: &[(&str, Parsed)] = &[
    ("0", Ok((0, "0s"))),
    ("+0", Ok((0, "0s"))),
    ("-0", Ok((0, "0s"))),
    ("", Err("invalid duration \"\"")),
    ("+", Err("invalid duration \"+\"")),
    ("-", Err("invalid duration \"-\"")),
    ("5s", Ok((5_000_000_000, "5s"))),
    ("30s", Ok((30_000_000_000, "30s"))),
    ("1478s", Ok((1_478_000_000_000, "24m38s"))),
    ("-5s", Ok((-5_000_000_000, "-5s"))),
    ("+5s", Ok((5_000_000_000, "5s"))),
    ("5.0s", Ok((5_000_000_000, "5s"))),
    ("5.6s", Ok((5_600_000_000, "5.6s"))),
    ("5.s", Ok((5_000_000_000, "5s"))),
    (".5s", Ok((500_000_000, "500ms"))),
    ("1.0s", Ok((1_000_000_000, "1s"))),
    ("1.00s", Ok((1_000_000_000, "1s"))),
    ("1.004s", Ok((1_004_000_000, "1.004s"))),
    ("1.0040s", Ok((1_004_000_000, "1.004s"))),
    ("100.00100s", Ok((100_001_000_000, "1m40.001s"))),
    ("10ns", Ok((10, "10ns"))),
    ("11us", Ok((11_000, "11µs"))),
    ("12µs", Ok((12_000, "12µs"))),
    ("12μs", Ok((12_000, "12µs"))),
    ("13ms", Ok((13_000_000, "13ms"))),
    ("14s", Ok((14_000_000_000, "14s"))),
    ("15m", Ok((900_000_000_000, "15m0s"))),
    ("16h", Ok((57_600_000_000_000, "16h0m0s"))),
    ("3h30m", Ok((12_600_000_000_000, "3h30m0s"))),
    ("10.5s4m", Ok((250_500_000_000, "4m10.5s"))),
    ("-2m3.4s", Ok((-123_400_000_000, "-2m3.4s"))),
    ("1h2m3s4ms5us6ns", Ok((3_723_004_005_006, "1h2m3.004005006s"))),
    ("39h9m14.425s", Ok((140_954_425_000_000, "39h9m14.425s"))),
    ("52763797000ns", Ok((52_763_797_000, "52.763797s"))),
    ("0.3333333333333333333h", Ok((1_200_000_000_000, "20m0s"))),
    ("9007199254740993ns", Ok((9_007_199_254_740_993, "2501h59m59.254740993s"))),
    ("9223372036854775807ns", Ok((9_223_372_036_854_775_807, "2562047h47m16.854775807s"))),
    ("9223372036854775.807us", Ok((9_223_372_036_854_775_807, "2562047h47m16.854775807s"))),
    ("9223372036s854ms775us807ns", Ok((9_223_372_036_854_775_807, "2562047h47m16.854775807s"))),
    ("-9223372036854775808ns", Ok((-9_223_372_036_854_775_808, "-2562047h47m16.854775808s"))),
    ("-9223372036854775.808us", Ok((-9_223_372_036_854_775_808, "-2562047h47m16.854775808s"))),
    ("-9223372036s854ms775us808ns", Ok((-9_223_372_036_854_775_808, "-2562047h47m16.854775808s"))),
    ("-2562047h47m16.854775808s", Ok((-9_223_372_036_854_775_808, "-2562047h47m16.854775808s"))),
    ("0.100000000000000000000h", Ok((360_000_000_000, "6m0s"))),
    ("0.830103483285477580700h", Ok((2_988_372_539_827, "49m48.372539827s"))),
    ("3", Err("missing unit in duration \"3\"")),
    ("s", Err("invalid duration \"s\"")),
    (".", Err("invalid duration \".\"")),
    ("-.", Err("invalid duration \"-.\"")),
    (".s", Err("invalid duration \".s\"")),
    ("+.s", Err("invalid duration \"+.s\"")),
    ("1d", Err("unknown unit \"d\" in duration \"1d\"")),
    ("hello", Err("invalid duration \"hello\"")),
    ("3000000h", Err("invalid duration \"3000000h\"")),
    ("9223372036854775808ns", Err("invalid duration \"9223372036854775808ns\"")),
    ("9223372036854775.808us", Err("invalid duration \"9223372036854775.808us\"")),
    ("9223372036854ms775us808ns", Err("invalid duration \"9223372036854ms775us808ns\"")),
    ("-9223372036854775809ns", Err("invalid duration \"-9223372036854775809ns\"")),
    (" 5s", Err("invalid duration \" 5s\"")),
    ("5s ", Err("unknown unit \"s \" in duration \"5s \"")),
    ("5 s", Err("unknown unit \" s\" in duration \"5 s\"")),
    ("1h30m", Ok((5_400_000_000_000, "1h30m0s"))),
    ("1.5h", Ok((5_400_000_000_000, "1h30m0s"))),
    ("90m", Ok((5_400_000_000_000, "1h30m0s"))),
    ("5m0s", Ok((300_000_000_000, "5m0s"))),
    ("1e3s", Err("unknown unit \"e\" in duration \"1e3s\"")),
    ("1,5s", Err("unknown unit \",\" in duration \"1,5s\"")),
    ("--5s", Err("invalid duration \"--5s\"")),
    ("5S", Err("unknown unit \"S\" in duration \"5S\"")),
    ("1H", Err("unknown unit \"H\" in duration \"1H\"")),
    ("0s", Ok((0, "0s"))),
    ("0.0000000001s", Ok((0, "0s"))),
    ("0.9999999999s", Ok((999_999_999, "999.999999ms"))),
    ("1.9999999999ns", Ok((1, "1ns"))),
    ("2562047h47m16.854775807s", Ok((9_223_372_036_854_775_807, "2562047h47m16.854775807s"))),
    ("2562047h47m16.854775808s", Err("invalid duration \"2562047h47m16.854775808s\"")),
    ("2562048h", Err("invalid duration \"2562048h\"")),
    ("0.00000000000000000000000000000000001h", Ok((0, "0s"))),
    ("99999999999999999999ns", Err("invalid duration \"99999999999999999999ns\"")),
    ("0.99999999999999999999999s", Ok((1_000_000_000, "1s"))),
    ("1m1m", Ok((120_000_000_000, "2m0s"))),
    ("1.h", Ok((3_600_000_000_000, "1h0m0s"))),
    ("..5s", Err("invalid duration \"..5s\"")),
    ("1..5s", Err("missing unit in duration \"1..5s\"")),
    ("1.5.5s", Err("missing unit in duration \"1.5.5s\"")),
    ("00000000000000000000001s", Ok((1_000_000_000, "1s"))),
    ("-0s", Ok((0, "0s"))),
    ("-0.4ns", Ok((0, "0s"))),
    ("1µ", Err("unknown unit \"\\xc2\\xb5\" in duration \"1\\xc2\\xb5\"")),
    ("1us1", Err("missing unit in duration \"1us1\"")),
    ("1us1µs", Ok((2000, "2µs"))),
    ("0x1s", Err("unknown unit \"x\" in duration \"0x1s\"")),
    ("١s", Err("invalid duration \"\\xd9\\xa1s\"")),
    ("1ns1", Err("missing unit in duration \"1ns1\"")),
    ("5sm", Err("unknown unit \"sm\" in duration \"5sm\"")),
    ("5mss", Err("unknown unit \"mss\" in duration \"5mss\"")),
    ("0.1ns", Ok((0, "0s"))),
    ("106751d", Err("unknown unit \"d\" in duration \"106751d\"")),
    ("153722867m16.854775807s", Ok((9_223_372_036_854_775_807, "2562047h47m16.854775807s"))),
    ("18446744073709551616ns", Err("invalid duration \"18446744073709551616ns\"")),
    ("4611686018427387904s", Err("invalid duration \"4611686018427387904s\"")),
    ("10000000000h", Err("invalid duration \"10000000000h\"")),
    ("1h-5m", Err("unknown unit \"h-\" in duration \"1h-5m\"")),
    ("9223372036.854775807s", Ok((9_223_372_036_854_775_807, "2562047h47m16.854775807s"))),
    ("9223372036.854775808s", Err("invalid duration \"9223372036.854775808s\"")),
];

/// Nanoseconds, and how Go prints them.
#[rustfmt::skip]
const PRINTED_BY_GO: &[(i64, &str)] = &[
    (0, "0s"),
    (1, "1ns"),
    (-1, "-1ns"),
    (999, "999ns"),
    (1000, "1µs"),
    (1001, "1.001µs"),
    (1100, "1.1µs"),
    (999_999, "999.999µs"),
    (1_000_000, "1ms"),
    (2_200_000, "2.2ms"),
    (999_999_999, "999.999999ms"),
    (1_000_000_000, "1s"),
    (1_000_000_001, "1.000000001s"),
    (1_500_000_000, "1.5s"),
    (59_999_999_999, "59.999999999s"),
    (60_000_000_000, "1m0s"),
    (60_000_000_001, "1m0.000000001s"),
    (300_000_000_000, "5m0s"),
    (3_599_999_999_999, "59m59.999999999s"),
    (3_600_000_000_000, "1h0m0s"),
    (3_661_000_000_000, "1h1m1s"),
    (5_400_000_000_000, "1h30m0s"),
    (86_400_000_000_000, "24h0m0s"),
    (9_223_372_036_854_775_807, "2562047h47m16.854775807s"),
    (-9_223_372_036_854_775_808, "-2562047h47m16.854775808s"),
    (-1100, "-1.1µs"),
    (-3_300_000_000, "-3.3s"),
    (245_000_000_000, "4m5s"),
    (100_000, "100µs"),
    (12_345_678, "12.345678ms"),
];

#[test]
fn parses_as_go_does() {
    for (text, expected) in PARSED_BY_GO {
        match (parse(text), expected) {
            (Ok(got), Ok((nanos, printed))) => {
                assert_eq!(got, SignedDuration::from_nanos(*nanos), "{text}");
                assert_eq!(format(got), *printed, "{text}");
            }
            (Err(got), Err(message)) => {
                assert_eq!(got.to_string(), format!("time: {message}"));
                assert_eq!(got.value(), *text);
            }
            (got, expected) => panic!("{text:?}: got {got:?}, Go says {expected:?}"),
        }
    }
}

#[test]
fn prints_as_go_does() {
    for (nanos, printed) in PRINTED_BY_GO {
        assert_eq!(format(SignedDuration::from_nanos(*nanos)), *printed);
    }
}

#[test]
fn names_the_kind_of_error() {
    let kind = |text: &str| parse(text).unwrap_err().kind();
    assert_eq!(kind("x"), ErrorKind::Syntax);
    assert_eq!(kind("9223372036.854775808s"), ErrorKind::Overflow);
    assert_eq!(kind("5"), ErrorKind::MissingUnit);
    assert_eq!(kind("5d"), ErrorKind::UnknownUnit);
}

#[test]
fn unsigned_refuses_a_negative_value() {
    assert_eq!(parse_unsigned("1m30s").unwrap(), Duration::from_secs(90));
    assert_eq!(parse_unsigned("-0s").unwrap(), Duration::ZERO);
    let error = parse_unsigned("-1ns").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Negative);
    assert_eq!(error.to_string(), r#"duration "-1ns" must not be negative"#);
}

#[test]
fn prints_what_go_cannot_hold() {
    assert_eq!(format_unsigned(Duration::MAX), format(SignedDuration::MAX));
    assert_eq!(
        format(SignedDuration::from_hours(3_000_000)),
        "3000000h0m0s"
    );
}

fn unit() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["ns", "us", "µs", "μs", "ms", "s", "m", "h"])
}

proptest! {
    #[test]
    fn printing_and_reading_returns_the_value(nanos in any::<i64>()) {
        let duration = SignedDuration::from_nanos(nanos);
        prop_assert_eq!(parse(&format(duration)), Ok(duration));
    }

    // Four times as many hours are still less than the 2,562,047 that Go can hold.
    #[test]
    fn parts_add_up(parts in prop::collection::vec((0u64..600_000, unit()), 1..5)) {
        let text = parts.iter().map(|(value, unit)| format!("{value}{unit}")).collect::<Vec<_>>();
        let text = text.concat();
        let nanos: u64 = parts.iter().map(|(value, unit)| value * unit_nanos(unit).unwrap()).sum();
        prop_assert_eq!(parse(&text).unwrap().as_nanos(), i128::from(nanos));
        prop_assert_eq!(parse(&format!("-{text}")).unwrap().as_nanos(), -i128::from(nanos));
    }

    #[test]
    fn any_text_gives_a_value_or_an_error(text in "[-+]?([0-9.]{0,25}(ns|us|µs|ms|s|h|d)?){0,4}") {
        if let Ok(duration) = parse(&text) {
            prop_assert_eq!(parse(&format(duration)), Ok(duration));
        }
    }
}
