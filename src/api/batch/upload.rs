//! `UploadRecipients`: chunks in, each stored as a whole or not at all.

use std::collections::BTreeMap;

use tokio::time::timeout;
use tonic::Streaming;

use super::csv::{Record, Records};
use super::{Batches, UPLOAD, batch_to, by, checked_id, fault_to, owner, wrong_state};
use crate::api::auth::Caller;
use crate::api::error::ApiError;
use crate::api::guard::stream::Stopping;
use crate::api::proto;
use crate::api::proto::batch_service_upload_recipients_request::Chunk as Given;
use crate::deliver::Renderer;
use crate::domain::ids::is_opaque;
use crate::domain::{BatchId, PatientId, Purpose, Redacted};
use crate::record::batch_rows::{self, Added, Chunk, Form, NewRow};
use crate::record::batches::{self, BatchView, FaultView};

const ROWS_MAX: usize = 5000;
const CSV_MAX_BYTES: usize = 256 * 1024;
/// Faults that the answer names.
const FAULTS_MAX: usize = 100;
/// Variables of a row, as on the topic.
const VARIABLES_MAX: usize = 20;

/// Takes a stream of chunks to its end.
pub(super) async fn run(
    service: &Batches,
    caller: &Caller,
    mut stream: Streaming<proto::BatchServiceUploadRecipientsRequest>,
    stopping: Stopping,
) -> Result<proto::BatchServiceUploadRecipientsResponse, tonic::Status> {
    let idle = service.stream_idle;
    let silent = |_| tonic::Status::from(ApiError::StreamIdle(idle));
    let first = timeout(idle, stream.message()).await.map_err(silent)??;
    let first =
        first.ok_or_else(|| ApiError::invalid("batch_id", "is required: the stream has no message"))?;
    let id = checked_id(&first.batch_id)?;
    let found = batches::get(&service.pool, id, owner(caller)).await.map_err(ApiError::from)?;
    let batch = found.ok_or(ApiError::NotFound("batch"))?;
    let rules = Rules::of(&service.renderer, &batch);
    let mut upload =
        Upload { service, caller, id, batch, rules, csv: None, faults: Vec::new(), begins: true };
    let mut next = Some(first);
    while let Some(message) = next {
        let last = message.last;
        upload.take(message).await?;
        if last {
            break;
        }
        next = tokio::select! {
            message = timeout(idle, stream.message()) => message.map_err(silent)??,
            // What was stored is stored: the call goes on at another replica.
            () = stopping.begun() => return Err(ApiError::Stopping.into()),
        };
    }
    Ok(proto::BatchServiceUploadRecipientsResponse {
        batch: Some(batch_to(upload.batch)),
        faults: upload.faults.into_iter().map(fault_to).collect(),
    })
}

struct Upload<'a> {
    service: &'a Batches,
    caller: &'a Caller,
    id: BatchId,
    /// As the last chunk left it.
    batch: BatchView,
    rules: Rules<'a>,
    csv: Option<Csv>,
    faults: Vec<FaultView>,
    begins: bool,
}

/// A file on its way.
struct Csv {
    records: Records,
    /// `None` until its first line was read.
    header: Option<Vec<String>>,
}

impl Upload<'_> {
    async fn take(&mut self, message: proto::BatchServiceUploadRecipientsRequest) -> Result<(), ApiError> {
        if !message.batch_id.is_empty() && checked_id(&message.batch_id)? != self.id {
            return Err(ApiError::invalid("batch_id", "must be that of the first message"));
        }
        match message.chunk {
            Some(Given::Rows(rows)) => self.rows(rows, message.last).await,
            Some(Given::Csv(piece)) => self.piece(piece, message.last).await,
            None if message.last && self.csv.is_some() => {
                let end = self.csv.as_ref().map_or(0, |csv| csv.records.taken());
                self.piece(proto::BatchCsv { offset: end, content: Vec::new() }, true).await
            }
            None if message.last => self.store(1, Vec::new(), None, true).await,
            None => Err(ApiError::invalid("chunk", "is required unless it is the last message")),
        }
    }

    async fn rows(&mut self, given: proto::BatchRows, last: bool) -> Result<(), ApiError> {
        if given.first_row < 1 {
            return Err(ApiError::invalid("rows.first_row", "must be 1 or more"));
        }
        if given.rows.len() > ROWS_MAX {
            return Err(ApiError::invalid("rows.rows", "has more than 5000 entries"));
        }
        if self.csv.is_some() {
            return Err(wrong_form());
        }
        let rules = &self.rules;
        let rows = given.rows.into_iter().map(|row| {
            let recipient = row.recipient_id.filter(|recipient| !recipient.is_empty());
            checked(&row.patient_id, recipient, row.variables, rules)
        });
        self.store(given.first_row, rows.collect(), Some(Kind::Rows), last).await
    }

    async fn piece(&mut self, piece: proto::BatchCsv, last: bool) -> Result<(), ApiError> {
        if piece.content.len() > CSV_MAX_BYTES {
            return Err(ApiError::invalid("csv.content", "has more than 256 KiB"));
        }
        if self.batch.rows_received > 0 && self.batch.csv_header.is_none() {
            return Err(wrong_form());
        }
        let batch = &self.batch;
        let csv = self.csv.get_or_insert_with(|| Csv {
            records: Records::from_offset(batch.bytes_received),
            header: batch.csv_header.clone(),
        });
        // What was taken already is passed over.
        let offset = Some(piece.offset).filter(|&offset| (0..=csv.records.taken()).contains(&offset));
        let Some(offset) = offset else { return Err(gap(batch)) };
        let known = csv.records.taken() - offset;
        let known = usize::try_from(known).unwrap_or(usize::MAX).min(piece.content.len());
        let mut records = csv.records.push(&piece.content[known..], last).into_iter();
        if csv.header.is_none()
            && let Some(first) = records.next()
        {
            csv.header = Some(header(first, &self.service.renderer, batch.made.purpose)?);
        }
        let Some(header) = csv.header.clone() else {
            // Not even the first line is whole.
            return if last { Err(ApiError::invalid("csv", "has no header")) } else { Ok(()) };
        };
        let rules = &self.rules;
        let rows: Vec<_> = records.map(|record| line(record, &header, rules)).collect();
        let (first_row, end) = (batch.rows_received + 1, csv.records.whole());
        self.store(first_row, rows, Some(Kind::Csv { header, end }), last).await
    }

    async fn store(
        &mut self,
        first_row: i64,
        rows: Vec<Result<NewRow, String>>,
        kind: Option<Kind>,
        last: bool,
    ) -> Result<(), ApiError> {
        let form = kind.as_ref().map(|kind| match kind {
            Kind::Rows => Form::Rows,
            Kind::Csv { header, end } => Form::Csv { header, end: *end },
        });
        let chunk = Chunk { first_row, rows, form, begins: self.begins, last };
        match batch_rows::add(&self.service.pool, self.id, &chunk, by(self.caller, UPLOAD)).await? {
            Added::Stored(batch, faults) => {
                self.batch = *batch;
                self.begins = false;
                let room = FAULTS_MAX.saturating_sub(self.faults.len());
                self.faults.extend(faults.into_iter().take(room));
                Ok(())
            }
            Added::NotFound => Err(ApiError::NotFound("batch")),
            Added::State(state) => Err(wrong_state(state)),
            Added::Gap(batch) => Err(gap(&batch)),
            Added::Form => Err(wrong_form()),
            Added::TooLarge => Err(ApiError::Precondition {
                reason: "UPLOAD_TOO_LARGE",
                message: format!("a batch has at most {} rows; make another one", batch_rows::ROWS_MAX),
            }),
        }
    }
}

/// What a chunk is, with what belongs to it.
enum Kind {
    Rows,
    Csv { header: Vec<String>, end: i64 },
}

fn wrong_form() -> ApiError {
    ApiError::Precondition {
        reason: "UPLOAD_FORM",
        message: "a batch is uploaded as rows or as one CSV file, by one call at a time; look at the batch \
                  and go on from there"
            .to_owned(),
    }
}

fn gap(batch: &BatchView) -> ApiError {
    ApiError::Precondition {
        reason: "UPLOAD_GAP",
        message: format!(
            "the chunk begins after the place to which the upload came: go on with row {}, or of a CSV \
             file with offset {}",
            batch.rows_received + 1,
            batch.bytes_received
        ),
    }
}

/// Columns of the first line; faults name a column by its number.
fn header(first: Record, renderer: &Renderer, purpose: Purpose) -> Result<Vec<String>, ApiError> {
    let columns = first.map_err(|problem| ApiError::invalid("csv", &format!("the header {problem}")))?;
    let variables = renderer.variables(purpose);
    for (index, column) in columns.iter().enumerate() {
        let known =
            ["patient_id", "recipient_id"].contains(&column.as_str()) || variables.contains(&column.as_str());
        let problem = if !known {
            "is neither patient_id, recipient_id nor a variable of the purpose"
        } else if columns[..index].contains(column) {
            "stands there a second time"
        } else {
            continue;
        };
        return Err(ApiError::invalid("csv", &format!("the header's column {} {problem}", index + 1)));
    }
    if !columns.iter().any(|column| column == "patient_id") {
        return Err(ApiError::invalid("csv", "the header has no column patient_id"));
    }
    Ok(columns)
}

fn line(record: Record, header: &[String], rules: &Rules<'_>) -> Result<NewRow, String> {
    let fields = record.map_err(str::to_owned)?;
    if fields.len() != header.len() {
        return Err(format!("has {} fields and the header {}", fields.len(), header.len()));
    }
    let (mut patient_id, mut recipient, mut variables) = (String::new(), None, BTreeMap::new());
    for (column, field) in header.iter().zip(fields) {
        match column.as_str() {
            "patient_id" => patient_id = field,
            _ if field.is_empty() => {}
            "recipient_id" => recipient = Some(field),
            _ => drop(variables.insert(column.clone(), field)),
        }
    }
    checked(&patient_id, recipient, variables, rules)
}

/// What the rows of a batch must have.
struct Rules<'a> {
    renderer: &'a Renderer,
    purpose: Purpose,
    /// Variables that a template needs.
    required: Vec<String>,
    /// Variables that the batch gives.
    common: Vec<String>,
}

impl<'a> Rules<'a> {
    fn of(renderer: &'a Renderer, batch: &BatchView) -> Self {
        let made = &batch.made;
        let given = made.variables.expose().iter().filter(|(_, value)| !value.trim().is_empty());
        Self {
            renderer,
            purpose: made.purpose,
            required: renderer.required(made.purpose, &made.channels),
            common: given.map(|(name, _)| name.clone()).collect(),
        }
    }

    /// A variable that a message to this row would miss.
    fn missing(&self, own: &BTreeMap<String, String>) -> Option<&str> {
        let has = |name: &String| match own.get(name) {
            Some(value) => !value.trim().is_empty(),
            None => self.common.contains(name),
        };
        self.required.iter().find(|name| !has(name)).map(String::as_str)
    }
}

/// One row, or why it cannot be used; the reason repeats no value.
fn checked(
    patient_id: &str,
    recipient: Option<String>,
    variables: BTreeMap<String, String>,
    rules: &Rules<'_>,
) -> Result<NewRow, String> {
    let patient_id = PatientId::parse(patient_id)
        .ok_or("patient_id: must be 1 to 64 characters of A-Z a-z 0-9 . _ : -")?;
    if !recipient.as_deref().is_none_or(is_opaque) {
        return Err("recipient_id: must be 1 to 64 characters of A-Z a-z 0-9 . _ : -".to_owned());
    }
    if variables.len() > VARIABLES_MAX {
        return Err("variables: has more than 20 entries".to_owned());
    }
    if let Some(name) = rules.missing(&variables) {
        return Err(format!("{name}: is required by a template, and neither the row nor the batch has it"));
    }
    let pairs: Vec<(String, String)> = variables.into_iter().collect();
    if let Some(fault) = rules.renderer.faults_anywhere(rules.purpose, &pairs).into_iter().next() {
        return Err(match fault.name {
            Some(name) => format!("{name}: {}", fault.problem),
            None => format!("variables: {}", fault.problem),
        });
    }
    Ok(NewRow { patient_id, recipient, variables: Redacted::new(pairs.into_iter().collect()) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn renderer() -> Renderer {
        Renderer::embedded(&Config::from_defaults().plan).unwrap()
    }

    fn words(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|&text| text.to_owned()).collect()
    }

    #[test]
    fn a_header_names_what_the_purpose_takes() {
        let check = |columns: &[&str]| header(Ok(words(columns)), &renderer(), Purpose::Campaign);
        check(&["topic", "patient_id", "recipient_id"]).unwrap();
        for (bad, problem) in [
            (&["patient_id", "CANARY"][..], "column 2 is neither"),
            (&["patient_id", "patient_id"], "column 2 stands there a second time"),
            (&["topic"], "no column patient_id"),
        ] {
            let error = check(bad).unwrap_err().to_string();
            assert!(error.contains(problem) && !error.contains("CANARY"), "{error}");
        }
    }

    #[test]
    fn a_bad_line_says_what_is_wrong_and_repeats_nothing() {
        let header = words(&["patient_id", "recipient_id", "topic"]);
        let renderer = renderer();
        let rules = Rules {
            renderer: &renderer,
            purpose: Purpose::Campaign,
            required: Vec::new(),
            common: Vec::new(),
        };
        let check = |fields: &[&str]| line(Ok(words(fields)), &header, &rules);
        let good = check(&["pat-1", "", "survey"]).unwrap();
        assert_eq!((good.recipient, good.variables.expose().len()), (None, 1));
        assert!(check(&["pat-1", "rcp-1", ""]).unwrap().variables.expose().is_empty());
        for (bad, problem) in [
            (&["pat-1", ""][..], "has 2 fields and the header 3"),
            (&["CANARY Doe", "", ""], "patient_id: must be"),
            (&["", "", ""], "patient_id: must be"),
            (&["pat-1", "CANARY Doe", ""], "recipient_id: must be"),
            (&["pat-1", "", "CANARY"], "topic: must be one of"),
        ] {
            let reason = check(bad).unwrap_err();
            assert!(reason.contains(problem) && !reason.contains("CANARY"), "{reason}");
        }
    }

    #[test]
    fn a_row_has_what_a_template_needs_itself_or_from_its_batch() {
        let renderer = renderer();
        let rules = |common: &[&str]| Rules {
            renderer: &renderer,
            purpose: Purpose::Campaign,
            required: words(&["topic"]),
            common: words(common),
        };
        let header = words(&["patient_id", "topic"]);
        let row = |topic: &str, common: &[&str]| {
            line(Ok(words(&["pat-1", topic])), &header, &rules(common)).map(drop)
        };
        assert_eq!(row("survey", &[]), Ok(()));
        assert_eq!(row("", &["topic"]), Ok(()));
        assert!(row("", &[]).unwrap_err().starts_with("topic: is required"));
        let blank = [("topic".to_owned(), " ".to_owned())].into();
        let blank = checked("pat-1", None, blank, &rules(&["topic"]));
        assert!(blank.is_err(), "a row's own value stands over the batch's");
    }
}
