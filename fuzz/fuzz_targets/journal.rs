//! The reader of the journal: of the input as it is, and, to get past the checksum, of a journal with the input as body.

#![no_main]

use std::path::Path;

use fuzz::journal::{decode, parse, sealed};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let path = Path::new("journal");
    let _ = parse(path, input);
    let Ok(body) = str::from_utf8(input) else { return };
    let Ok(contents) = parse(path, sealed(body).as_bytes()) else { return };
    let again = serde_json::to_string(&contents).expect("strings and numbers have a JSON form");
    assert_eq!(parse(path, sealed(&again).as_bytes()).expect("what was read can be read again"), contents);
    if let (Ok(_), Some(order)) = (decode(path, &contents), &contents.order) {
        fuzz::planted(fuzz::is_magic(&order.uid));
    }
});
