//! CSV and TSV files, whole and damaged.

use std::{fs, path::Path};

use eranos_base::{Entropy, SeededEntropy};
use eranos_nn::data::{
    DataError, Format, RECORDS_MAX, Table,
    table::{COLUMNS_MAX, LineProblem, ROW_LEN_MAX},
};

use crate::{below, gzip};

fn parse(bytes: &[u8], format: Format) -> Result<Table, DataError> {
    Table::parse(bytes, Path::new("x.csv"), format, None)
}

fn rows(table: &Table) -> Vec<Vec<String>> {
    (0..table.n_rows()).map(|i| table.row(i).map(str::to_owned).collect()).collect()
}

#[test]
fn fields_are_what_rfc_4180_says() {
    let check = |text: &str, expected: &[&[&str]]| {
        let table = parse(text.as_bytes(), Format::Csv).expect("table");
        let mut all = vec![table.columns().to_vec()];
        all.extend(rows(&table));
        assert_eq!(all, expected, "{text:?}");
    };
    check("a,b\n1,2\n", &[&["a", "b"], &["1", "2"]]);
    check("a,b\r\n1,2", &[&["a", "b"], &["1", "2"]]);
    check("\u{feff}a,b\n,\n", &[&["a", "b"], &["", ""]]);
    check("\u{feff}\"a\"\n1\n", &[&["a"], &["1"]]);
    check("a,b\n\"x, \"\"y\"\"\r\nz\",\"\"\n", &[&["a", "b"], &["x, \"y\"\r\nz", ""]]);
    check("a\n\"\"", &[&["a"], &[""]]);
    check("a\n\n", &[&["a"], &[""]]);
    check("a,b\n ,\u{1f600}\n", &[&["a", "b"], &[" ", "\u{1f600}"]]);
    let tabs = parse(b"a\tb\n\"x\t5\" pipe, y\n", Format::Tsv).expect("table");
    assert_eq!(rows(&tabs), [["\"x", "5\" pipe, y"]]);
    let named = Table::parse(&b"1,2\n"[..], Path::new("x"), Format::Csv, Some(&["a", "b"])).expect("table");
    assert_eq!((named.columns(), named.n_rows()), (&["a".to_owned(), "b".to_owned()][..], 1));
    assert_eq!(parse(b"", Format::Csv).expect("empty").n_rows(), 0);
}

#[test]
fn each_fault_names_its_line() {
    let check = |bytes: &[u8], line: u32, problem: LineProblem| match parse(bytes, Format::Csv).expect_err("fault") {
        DataError::Line { line: found_line, problem: found, .. } => assert_eq!((found_line, found), (line, problem)),
        other => panic!("{other}"),
    };
    check(b"a,b\n1,2\n3,\"x\n4,5\n", 3, LineProblem::OpenQuote);
    check(b"a,b\n1,5\" pipe\n", 2, LineProblem::StrayQuote);
    check(b"a,b\n1,\"x\"y\n", 2, LineProblem::TextAfterQuote);
    check(b"a,b\r1,2\r", 1, LineProblem::CarriageReturn);
    check(b"a,b\n1,2\r", 2, LineProblem::CarriageReturn);
    check(b"a,b\n\"\n\n\",1\n1,\xff\n", 5, LineProblem::NotUtf8);
    // The halves of one character on both sides of a comma are two broken fields, not one whole.
    check(b"a,b\n\xc3,\xa9\n", 2, LineProblem::NotUtf8);
    check(b"a,b\n1,2\n3\n", 3, LineProblem::Fields { found: 1, expected: 2 });
    check(b"a,b\n1,2,\n", 2, LineProblem::Fields { found: 3, expected: 2 });
    check(b"a,b\n1,2\n\n", 3, LineProblem::Fields { found: 1, expected: 2 });
    let whole = gzip(b"a,b\n1,2\n");
    check(&whole[..whole.len() - 9], 3, LineProblem::Damaged);
}

#[test]
fn no_file_however_it_is_made_exceeds_the_limits() {
    let limit = |bytes: &[u8]| match parse(bytes, Format::Csv).expect_err("limit") {
        DataError::Line { line, problem: LineProblem::Limit { what, max }, .. } => (line, what, max),
        other => panic!("{other}"),
    };
    let row = ROW_LEN_MAX as usize;
    // Each line end counts as a byte of its row.
    let longest = [b"a\n", &vec![b'x'; row - 1][..], b"\ny\n"].concat();
    assert_eq!(parse(&longest, Format::Csv).expect("just fits").n_rows(), 2);
    let longer = [b"a\n", &vec![b'x'; row][..], b"\ny\n"].concat();
    assert_eq!(limit(&longer), (2, "bytes in a row", ROW_LEN_MAX));
    let bomb = gzip(&[b"a\n", &vec![b'x'; 1 << 26][..]].concat());
    assert_eq!(limit(&bomb), (2, "bytes in a row", ROW_LEN_MAX));
    assert_eq!(limit(&gzip(&[b"a\n\"", &vec![b'\n'; 1 << 26][..]].concat())), (2, "bytes in a row", ROW_LEN_MAX));
    assert_eq!(limit(&vec![b','; COLUMNS_MAX]), (1, "columns", COLUMNS_MAX as u64));
    assert_eq!(parse(&vec![b','; COLUMNS_MAX - 1], Format::Csv).expect("columns").columns().len(), COLUMNS_MAX);
    let rows = limit(&gzip(&vec![b'\n'; RECORDS_MAX + 2]));
    assert_eq!(rows, (RECORDS_MAX as u32 + 2, "rows", RECORDS_MAX as u64));
}

#[test]
fn columns_are_found_by_name_and_read_as_what_they_hold() {
    let table = parse(b"user,rating,x,x\n7,4.5,a,\n3,1e1,b,\n7,-0,c,\n", Format::Csv).expect("table");
    let column = |name: &str| table.column(name).expect("column");
    assert_eq!(column("user").distinct(), ["7", "3"]);
    assert_eq!(column("user").integers(8).expect("integers"), [7, 3, 7]);
    assert_eq!(column("rating").numbers().expect("numbers"), [4.5, 10.0, 0.0]);
    for name in ["x", "none", ""] {
        let error = table.column(name).expect_err("no such column");
        assert!(matches!(&error, DataError::Column { name: found, .. } if found == name), "{error}");
        assert_eq!(error.user_error().to_string().lines().count(), 2);
    }
    let error = column("user").integers(7).expect_err("not below 7").user_error().to_string();
    assert_eq!(
        error,
        "error: x.csv, line 2: column \"user\" holds \"7\", expected a whole number from 0 to below 7\n \
         help: correct the value, or leave the line out"
    );
    for cell in ["", " 1", "NaN", "inf", "1e999", "0x1"] {
        let table = parse(format!("a,b\n{cell},\n").as_bytes(), Format::Csv).expect("table");
        assert!(table.column("a").expect("a").numbers().is_err(), "{cell:?}");
    }
    let long = parse(format!("a\n{}\n", "\u{e9}".repeat(1000)).as_bytes(), Format::Csv).expect("table");
    let error = long.column("a").expect("a").numbers().expect_err("text").to_string();
    assert!(error.len() < 200, "{error}");
}

#[test]
fn formats_are_told_by_name() {
    let of = |name: &str| Format::of(Path::new(name)).ok();
    assert_eq!([of("a.csv"), of("b/A.CSV.GZ"), of("a.tsv.gz")], [Format::Csv, Format::Csv, Format::Tsv].map(Some));
    assert_eq!([of("csv"), of("a.txt"), of("a.csv/b"), of("")], [None; 4]);
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("t.csv.gz");
    fs::write(&path, gzip(b"a,b\n1,2\n")).expect("write");
    assert_eq!(rows(&Table::read(&path, Format::of(&path).expect("csv"), None).expect("table")), [["1", "2"]]);
    assert!(matches!(Table::read(&folder.path().join("no"), Format::Csv, None), Err(DataError::Read { .. })));
}

#[test]
fn random_tables_come_back() {
    let mut entropy = SeededEntropy::new(41);
    for round in 0..2000 {
        let (n_columns, n_rows) = (1 + below(5, &mut entropy), below(8, &mut entropy));
        let format = if round % 2 == 0 { Format::Csv } else { Format::Tsv };
        let mut table = Vec::new();
        let mut bytes = Vec::new();
        for _ in 0..=n_rows {
            let row: Vec<String> = (0..n_columns).map(|_| cell(format, &mut entropy)).collect();
            for (i, cell) in row.iter().enumerate() {
                if i > 0 {
                    bytes.push(if format == Format::Csv { b',' } else { b'\t' });
                }
                let must = cell.contains([',', '"', '\r', '\n']);
                if format == Format::Csv && (must || below(3, &mut entropy) == 0) {
                    bytes.extend(format!("\"{}\"", cell.replace('"', "\"\"")).bytes());
                } else {
                    bytes.extend(cell.bytes());
                }
            }
            bytes.extend(if below(2, &mut entropy) == 0 { "\n" } else { "\r\n" }.bytes());
            table.push(row);
        }
        let bytes = if round % 5 == 0 { gzip(&bytes) } else { bytes };
        let read = parse(&bytes, format).unwrap_or_else(|e| panic!("seed 41, round {round}: {e}"));
        assert_eq!(read.columns(), table[0], "seed 41, round {round}");
        assert_eq!(rows(&read), table[1..], "seed 41, round {round}");
        for (i, name) in table[0].iter().enumerate() {
            match read.column(name) {
                Ok(column) => {
                    assert!(column.cells().eq(table[1..].iter().map(|row| &row[i])), "seed 41, round {round}")
                }
                Err(_) => assert!(table[0].iter().filter(|other| *other == name).count() > 1, "seed 41, round {round}"),
            }
        }
    }
}

/// A random cell of characters that mean something to the format or to UTF-8.
fn cell(format: Format, entropy: &mut SeededEntropy) -> String {
    let alphabet: &[char] = match format {
        Format::Csv => &['a', '1', ' ', ',', '"', '\n', '\r', '\t', '\u{e9}', '\u{1f600}'],
        Format::Tsv => &['a', '1', ' ', ',', '"', '\u{e9}', '\u{1f600}', '\0'],
    };
    (0..below(6, entropy)).map(|_| alphabet[below(alphabet.len(), entropy)]).collect()
}

#[test]
fn random_bytes_never_panic_and_what_passes_is_a_table() {
    let mut entropy = SeededEntropy::new(42);
    let mut n_passed = 0;
    for round in 0..40_000 {
        let mut bytes = vec![0; below(48, &mut entropy)];
        entropy.fill(&mut bytes);
        if round % 4 > 0 {
            let alphabet = b"ab,,\t\"\"\r\n\n\xc3\xa9\xef\xbb\xbf";
            bytes.iter_mut().for_each(|byte| *byte = alphabet[usize::from(*byte) % alphabet.len()]);
        }
        if round % 16 == 1 {
            bytes = gzip(&bytes);
            if below(2, &mut entropy) == 0 {
                let at = below(bytes.len(), &mut entropy);
                bytes[at] ^= 1 << below(8, &mut entropy);
            }
        }
        let format = if round % 2 == 0 { Format::Csv } else { Format::Tsv };
        match parse(&bytes, format) {
            Ok(table) => {
                n_passed += 1;
                assert!(rows(&table).iter().all(|row| row.len() == table.columns().len()), "seed 42, round {round}");
            }
            Err(error) => assert_eq!(error.user_error().to_string().lines().count(), 2, "seed 42, round {round}"),
        }
    }
    assert!(n_passed > 1000, "too few of the random files are tables to say anything: {n_passed}");
}
