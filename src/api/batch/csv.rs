//! CSV (RFC 4180) in pieces that end anywhere: records as they become whole, and where
//! each ends, so that an upload can go on there.

use csv_core::{ReadRecordResult, Reader};

/// Longest record, in bytes without its quotes.
const RECORD_MAX_BYTES: usize = 16 * 1024;
/// Most fields of a record: more than any header may have.
const FIELDS_MAX: usize = 32;

/// A record, in fields; or why it cannot be used.
pub(super) type Record = Result<Vec<String>, &'static str>;

/// Takes a file apart.
pub(super) struct Records {
    reader: Reader,
    text: Box<[u8]>,
    ends: [usize; FIELDS_MAX],
    filled: usize,
    fields: usize,
    spoiled: Option<&'static str>,
    taken: i64,
    whole: i64,
}

impl Records {
    /// Begins at an offset at which a record begins.
    pub(super) fn from_offset(offset: i64) -> Self {
        Self {
            reader: Reader::new(),
            text: vec![0; RECORD_MAX_BYTES].into(),
            ends: [0; FIELDS_MAX],
            filled: 0,
            fields: 0,
            spoiled: None,
            taken: offset,
            whole: offset,
        }
    }

    /// The offset of the next byte that it wants.
    pub(super) const fn taken(&self) -> i64 {
        self.taken
    }

    /// The offset at which the last whole record ended.
    pub(super) const fn whole(&self) -> i64 {
        self.whole
    }

    /// Takes the next piece; the records that have become whole with it. `last`: the
    /// file ends with it, so that its last record needs no line feed.
    pub(super) fn push(&mut self, mut piece: &[u8], last: bool) -> Vec<Record> {
        let mut records = Vec::new();
        while !piece.is_empty() {
            let (took, record) = self.step(piece);
            piece = &piece[took..];
            records.extend(record.into_iter().flatten());
        }
        if last {
            while let Some(record) = self.step(&[]).1 {
                records.extend(record);
            }
        }
        records
    }

    /// One step of the reader: bytes taken, and the record that ended. `Some(None)`: more
    /// steps are needed; `None`: more input is.
    #[allow(clippy::option_option, reason = "the two absences ask for different things")]
    fn step(&mut self, input: &[u8]) -> (usize, Option<Option<Record>>) {
        let (result, took, filled, fields) =
            self.reader.read_record(input, &mut self.text[self.filled..], &mut self.ends[self.fields..]);
        self.taken += i64::try_from(took).unwrap_or(0);
        self.filled += filled;
        self.fields += fields;
        let ended = match result {
            ReadRecordResult::InputEmpty | ReadRecordResult::End => None,
            ReadRecordResult::OutputFull => {
                self.spoiled = Some("is longer than 16 KiB; perhaps a quote is not closed");
                self.filled = 0;
                Some(None)
            }
            ReadRecordResult::OutputEndsFull => {
                self.spoiled = Some("has more fields than the header");
                self.fields = 0;
                Some(None)
            }
            ReadRecordResult::Record => {
                let record = self.record();
                (self.filled, self.fields, self.whole) = (0, 0, self.taken);
                Some(Some(record))
            }
        };
        (took, ended)
    }

    fn record(&mut self) -> Record {
        if let Some(problem) = self.spoiled.take() {
            return Err(problem);
        }
        let mut start = 0;
        let mut fields = Vec::with_capacity(self.fields);
        for &end in &self.ends[..self.fields] {
            let field = std::str::from_utf8(&self.text[start..end]).map_err(|_| "is not UTF-8")?;
            fields.push(field.to_owned());
            start = end;
        }
        Ok(fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(record: &Record) -> Vec<&str> {
        record.as_ref().unwrap().iter().map(String::as_str).collect()
    }

    #[test]
    fn pieces_may_end_anywhere_and_give_the_same_records() {
        let file = "patient_id,topic\r\npat-1,\"a, \"\"b\"\"\r\nc\"\r\n\r\npat-2,é\npat-3,";
        let mut whole = Records::from_offset(0);
        let expected = whole.push(file.as_bytes(), true);
        assert_eq!(expected.len(), 4);
        assert_eq!(fields(&expected[1]), ["pat-1", "a, \"b\"\r\nc"]);
        assert_eq!(fields(&expected[3]), ["pat-3", ""]);
        for size in 1..file.len() {
            let mut records = Records::from_offset(0);
            let mut got = Vec::new();
            for piece in file.as_bytes().chunks(size) {
                got.extend(records.push(piece, false));
            }
            got.extend(records.push(&[], true));
            assert_eq!(got, expected, "pieces of {size} bytes");
            assert_eq!(records.taken(), i64::try_from(file.len()).unwrap());
        }
    }

    #[test]
    fn an_upload_goes_on_where_the_last_whole_record_ended() {
        let file = b"h\r\npat-1\r\n\"pat\n2\"\r\npat-3\r\n";
        let expected = Records::from_offset(0).push(file, true);
        for cut in 0..file.len() {
            let mut first = Records::from_offset(0);
            let mut got = first.push(&file[..cut], false);
            let whole = first.whole();
            let mut second = Records::from_offset(whole);
            got.extend(second.push(&file[usize::try_from(whole).unwrap()..], true));
            assert_eq!(got, expected, "cut at {cut}");
        }
    }

    #[test]
    fn bad_records_do_not_spoil_their_neighbours() {
        let long = "x".repeat(RECORD_MAX_BYTES + 1);
        let wide = ",".repeat(FIELDS_MAX);
        let file =
            [b"pat-1\n".as_slice(), long.as_bytes(), b"\n", wide.as_bytes(), b"\n\xff\npat-2\n"].concat();
        let got = Records::from_offset(0).push(&file, true);
        let good: Vec<bool> = got.iter().map(Result::is_ok).collect();
        assert_eq!(good, [true, false, false, false, true], "{got:?}");
        assert_eq!(fields(&got[4]), ["pat-2"]);
    }

    #[test]
    fn a_quote_that_is_not_closed_takes_no_more_than_a_records_memory() {
        let mut records = Records::from_offset(0);
        records.push(b"pat-1\n\"pat-2\n", false);
        for _ in 0..100 {
            assert_eq!(records.push(b"pat-3\n".repeat(100).as_slice(), false).len(), 0);
        }
        let got = records.push(&[], true);
        assert!(got.len() == 1 && got[0].is_err(), "{got:?}");
    }
}
