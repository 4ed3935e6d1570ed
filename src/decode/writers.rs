//! Writers' schemas by id: fetched once, parsed once, resolved to ours once.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::{Duration, Instant};

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::schema_compatibility::SchemaCompatibility;
use futures::{StreamExt, stream};
use parking_lot::RwLock;
use schema_registry_converter::async_impl::schema_registry::{SrSettings, get_schema_by_id};
use schema_registry_converter::error::SRCError;
use schema_registry_converter::schema_registry_common::{RawError, RegisteredSchema, SchemaType};
use self_cell::self_cell;

use crate::config;
use crate::domain::{Reason, contract};

use super::{Rejected, Shape, Unavailable};

/// How long "no such schema" is believed.
const UNKNOWN_TTL: Duration = Duration::from_secs(30);
/// How long an entry that is no longer believed stays readable, for batches that
/// were prepared while it was.
const UNKNOWN_GRACE: Duration = Duration::from_secs(30);
/// Entries of each sort. Topics have tens of schemas; whoever reaches this has
/// a producer that writes random ids.
const KNOWN_MAX: usize = 4_096;
const UNKNOWN_MAX: usize = 16_384;
/// Registry calls side by side.
const FETCHES_IN_FLIGHT: usize = 8;

/// Our schema of a kind of record.
fn reader_schema(shape: Shape) -> &'static Schema {
    static SCHEMAS: LazyLock<[Schema; Shape::ALL.len()]> = LazyLock::new(|| {
        Shape::ALL.map(|shape| {
            let text = match shape {
                Shape::TestResult => contract::TEST_RESULTS,
                Shape::Notification => contract::NOTIFICATIONS,
                Shape::Update => contract::NOTIFICATION_UPDATES,
                Shape::Status => contract::NOTIFICATION_STATUS,
            };
            Schema::parse_str(text).expect("avro/ is embedded, and a test parses each of its files")
        })
    });
    &SCHEMAS[shape.index()]
}

type Reader<'a> = GenericDatumReader<'a>;

self_cell! {
    /// A reader with the writer's schema that it borrows.
    pub(super) struct OwnedReader {
        owner: Arc<Schema>,
        #[covariant]
        dependent: Reader,
    }
}

impl OwnedReader {
    pub(super) fn read_value(
        &self,
        body: &mut impl std::io::Read,
    ) -> apache_avro::AvroResult<apache_avro::types::Value> {
        self.borrow_dependent().read_value(body)
    }
}

/// One writer's schema, and how each kind of record is read with it.
pub(super) struct Writer {
    schema_id: u32,
    schema: Arc<Schema>,
    readers: [OnceLock<Result<OwnedReader, Rejected>>; Shape::ALL.len()],
}

impl Writer {
    /// The schema itself.
    pub(super) fn schema(&self) -> &Schema {
        &self.schema
    }

    /// The reader that resolves this schema to ours.
    pub(super) fn reader(&self, shape: Shape) -> Result<&OwnedReader, Rejected> {
        let reader = self.readers[shape.index()].get_or_init(|| self.resolve(shape));
        reader.as_ref().map_err(Clone::clone)
    }

    fn resolve(&self, shape: Shape) -> Result<OwnedReader, Rejected> {
        let ours = reader_schema(shape);
        let incompatible = |why: String| {
            let detail = format!("writer's schema {} cannot be read as ours: {why}", self.schema_id);
            Rejected::new(Reason::IncompatibleSchema, detail)
        };
        SchemaCompatibility::can_read(&self.schema, ours).map_err(|error| incompatible(error.to_string()))?;
        // Resolution costs more than reading; the same schema needs none.
        let ours = (*self.schema != *ours).then_some(ours);
        OwnedReader::try_new(Arc::clone(&self.schema), |schema| {
            GenericDatumReader::builder(schema).maybe_reader_schema(ours).build()
        })
        .map_err(|_| incompatible("its names cannot be resolved".to_owned()))
    }
}

/// What is known of an id.
#[derive(Clone)]
enum Entry {
    /// Ids are never given twice, so this holds for ever.
    Known(Verdict),
    /// The registry did not know it at this time.
    Unknown { since: Instant },
}

/// What an id means for a record that carries it.
#[derive(Clone)]
pub(super) enum Verdict {
    Writer(Arc<Writer>),
    Refused(Rejected),
}

pub(super) struct Writers {
    registry: SrSettings,
    entries: RwLock<HashMap<u32, Entry>>,
    /// One batch fetches at a time: the next one finds what it needs.
    flight: tokio::sync::Mutex<()>,
}

impl Writers {
    pub(super) fn new(registry: &config::Registry) -> Result<Self, Unavailable> {
        let url = registry.url.trim_end_matches('/').to_owned();
        let mut builder = SrSettings::new_builder(url);
        builder.set_timeout(Duration::from_millis(registry.timeout_ms)).no_proxy();
        if !registry.username.is_empty() {
            builder.set_basic_authorization(&registry.username, Some(registry.password.expose()));
        }
        let registry =
            builder.build().map_err(|error| Unavailable { schema_id: 0, detail: describe(&error) })?;
        Ok(Self { registry, entries: RwLock::default(), flight: tokio::sync::Mutex::default() })
    }

    pub(super) fn has(&self, schema_id: u32) -> bool {
        self.entries.read().get(&schema_id).is_some_and(Entry::is_believed)
    }

    pub(super) fn get(&self, schema_id: u32) -> Option<Verdict> {
        match self.entries.read().get(&schema_id)? {
            Entry::Known(verdict) => Some(verdict.clone()),
            Entry::Unknown { .. } => {
                let detail = format!("the schema registry has no schema {schema_id}");
                Some(Verdict::Refused(Rejected::new(Reason::UnknownSchema, detail)))
            }
        }
    }

    /// Those of these ids that are not in hand, each once.
    pub(super) fn missing(&self, ids: impl Iterator<Item = u32>) -> BTreeSet<u32> {
        let entries = self.entries.read();
        let mut last = None;
        // Neighbours mostly have the same writer.
        ids.filter(|id| last.replace(*id) != Some(*id))
            .filter(|id| !entries.get(id).is_some_and(Entry::is_believed))
            .collect()
    }

    pub(super) async fn fetch(&self, wanted: BTreeSet<u32>) -> Result<(), Unavailable> {
        let _flight = self.flight.lock().await;
        let wanted = self.missing(wanted.into_iter());
        self.make_room(&wanted)?;
        let mut answers = stream::iter(wanted)
            .map(|id| async move { (id, get_schema_by_id(id, &self.registry).await) })
            .buffer_unordered(FETCHES_IN_FLIGHT);
        let mut outcome = Ok(());
        while let Some((id, answer)) = answers.next().await {
            match entry(id, answer) {
                Ok(entry) => {
                    self.entries.write().insert(id, entry);
                }
                Err(unavailable) => outcome = Err(unavailable),
            }
        }
        outcome
    }

    /// Keeps the map bounded. An entry that a prepared batch may still need is
    /// not thrown out; rather the next batch waits.
    fn make_room(&self, wanted: &BTreeSet<u32>) -> Result<(), Unavailable> {
        let mut entries = self.entries.write();
        let known = entries.values().filter(|entry| matches!(entry, Entry::Known(_))).count();
        if entries.len() - known + wanted.len() > UNKNOWN_MAX {
            entries.retain(|_, entry| !entry.is_past_grace());
        }
        let unknown = entries.len().saturating_sub(known);
        match wanted.first() {
            Some(&schema_id) if known + wanted.len() > KNOWN_MAX || unknown + wanted.len() > UNKNOWN_MAX => {
                let detail = format!("{known} schemas and {unknown} unknown ids are held already");
                Err(Unavailable { schema_id, detail })
            }
            _ => Ok(()),
        }
    }
}

impl Entry {
    fn is_believed(&self) -> bool {
        match self {
            Self::Known(_) => true,
            Self::Unknown { since } => since.elapsed() < UNKNOWN_TTL,
        }
    }

    fn is_past_grace(&self) -> bool {
        matches!(self, Self::Unknown { since } if since.elapsed() > UNKNOWN_TTL + UNKNOWN_GRACE)
    }
}

/// What the registry's answer means. Only an error that the registry itself
/// wrote says that a schema does not exist: a proxy's bare 404 is an outage.
fn entry(schema_id: u32, answer: Result<RegisteredSchema, SRCError>) -> Result<Entry, Unavailable> {
    match answer {
        Ok(registered) => Ok(Entry::Known(match parse(schema_id, &registered) {
            Ok(writer) => Verdict::Writer(Arc::new(writer)),
            Err(rejected) => Verdict::Refused(rejected),
        })),
        Err(error) if says_not_found(&error) => Ok(Entry::Unknown { since: Instant::now() }),
        Err(error) => Err(Unavailable { schema_id, detail: describe(&error) }),
    }
}

/// 40401 subject, 40402 version, 40403 schema: the registry's "not found" codes.
fn says_not_found(error: &SRCError) -> bool {
    std::error::Error::source(error)
        .and_then(|source| source.downcast_ref::<RawError>())
        .is_some_and(|raw| (40_401..=40_403).contains(&raw.error_code))
}

fn describe(error: &SRCError) -> String {
    match &error.cause {
        Some(cause) => format!("{} ({cause})", error.error),
        None => error.error.clone(),
    }
}

fn parse(schema_id: u32, registered: &RegisteredSchema) -> Result<Writer, Rejected> {
    let refuse = |why: &str| {
        let detail = format!("writer's schema {schema_id} {why}");
        Err(Rejected::new(Reason::IncompatibleSchema, detail))
    };
    if registered.schema_type != SchemaType::Avro {
        return refuse("is not Avro");
    }
    if !registered.references.is_empty() {
        return refuse("refers to other schemas, which is not supported");
    }
    let Ok(schema) = Schema::parse_str(&registered.schema) else {
        return refuse("is not valid");
    };
    if is_recursive(&schema, &mut Vec::new()) {
        return refuse("contains itself, so that a record could nest without end");
    }
    Ok(Writer { schema_id, schema: Arc::new(schema), readers: Default::default() })
}

/// True when a record holds itself, directly or not. apache-avro reads by
/// recursion: a small record with such a schema could overflow the stack.
fn is_recursive<'a>(schema: &'a Schema, within: &mut Vec<&'a str>) -> bool {
    match schema {
        // References to other records than those around it are repeated definitions.
        Schema::Ref { name } => within.contains(&name.name()),
        Schema::Record(record) => {
            within.push(record.name.name());
            let found = record.fields.iter().any(|field| is_recursive(&field.schema, within));
            within.pop();
            found
        }
        Schema::Array(array) => is_recursive(&array.items, within),
        Schema::Map(map) => is_recursive(&map.types, within),
        Schema::Union(union) => union.variants().iter().any(|variant| is_recursive(variant, within)),
        _ => false,
    }
}
