/*
 * server_verbs.c: check_server, topics, peek, and the ends of a topic for wait_for_head: a look at a
 * server from a session.
 *
 * Each starts a reader of its own, asks one question and ends it. Who may do that has USAGE
 * on the server and connects with his own user mapping. The wait is for the reader's socket and the
 * latch, so that cancel and statement_timeout work; the deadline is ours. The reader is ended
 * before an error leaves here, whatever raised it.
 *
 * What the library and a broker say is foreign text: gc_reader_text() makes it fit to be shown.
 */
#include "postgres.h"

#include "fmgr.h"
#include "foreign/foreign.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "compat.h"
#include "guest_context.h"
#include "reader_process.h"
#include "server_options.h"

PG_FUNCTION_INFO_V1(gc_check_server);
PG_FUNCTION_INFO_V1(gc_topics);
PG_FUNCTION_INFO_V1(gc_peek);

#define READER_MEMORY	(256 * 1024 * 1024)
#define TIMEOUT_MAX_MS	(60 * 60 * 1000)
#define PEEK_MAX		1000	/* what the reader reads of a partition */
#define AGAIN_MS		200		/* before a question that had no answer yet is asked again */
#define NO_BROKER		"no broker answers" /* how the summary of a ping begins */
#define GRACE_MS		1000	/* for another broker to answer, once all seem to be down */

/* Where a connection has come to when it fails. */
typedef enum Step
{
	STEP_RESOLVE,
	STEP_CONNECT,
	STEP_TLS,
	STEP_AUTH,
	STEP_METADATA,
	STEP_COUNT
} Step;

static const char *const step_names[] = {"resolve", "connect", "tls", "auth", "metadata"};

/* One question to a server, and its answer. */
typedef struct Question
{
	ForeignServer *server;
	GcReader   *reader;
	int			timeout_ms;
	TimestampTz deadline;
	bool		greeted;		/* the reader has said hello */
	bool		patient;		/* waits for brokers that are all down until the deadline */

	bool		answered;
	GcFrame		rows;			/* of the answer, behind the numbers of rows and columns */
	uint32		nrows;
	uint32		ncolumns;

	bool		failed;
	GcTrouble	trouble;		/* of an answer that says no */
	char	   *error;			/* what is wrong, NULL = nothing was said in time */
	Step		step;			/* where */
} Question;

/*
 * Which step a text of the library is about. Its texts begin with the broker,
 * "sasl_ssl://host:9092/bootstrap: ", in which the words do not count.
 */
static Step
step_of(const char *text)
{
	static const struct
	{
		const char *word;
		Step		step;
	}			words[] = {
		{"esolve", STEP_RESOLVE},
		{"SSL handshake", STEP_TLS},
		{"ertificate", STEP_TLS},
		{"ssl.", STEP_TLS},
		{"uthentica", STEP_AUTH},
		{"SASL", STEP_AUTH},
		{"kinit", STEP_AUTH},
		{"onnect", STEP_CONNECT},
		{"down", STEP_CONNECT},
		{"imed out", STEP_CONNECT},
	};
	const char *scheme = strstr(text, "://");
	const char *said = scheme ? strstr(scheme, ": ") : NULL;

	for (int i = 0; i < lengthof(words); i++)
		if (strstr(said ? said : text, words[i].word))
			return words[i].step;
	return STEP_METADATA;
}

/* Remembers why it does not work: what says more, or the same later, replaces what was said before. */
static void
remember(Question *question, const char *text, size_t len)
{
	char	   *said = gc_reader_text(text, len);
	char	   *thread_end = strncmp(said, "[thrd:", 6) == 0 ? strstr(said, "]: ") : NULL;
	Step		step;

	/* which thread of the library's it was */
	if (thread_end)
		said = thread_end + 3;
	step = step_of(said);
	if (said[0] == '\0')
		return;
	/* a summary says less than its reason, unless a connection came about and ended: that may have been a later step */
	if (question->error && (strstr(said, "brokers are down") ||
							(strncmp(said, NO_BROKER, strlen(NO_BROKER)) == 0 &&
							 (question->step == STEP_RESOLVE || strstr(question->error, "Connect to ")))))
		return;
	if (question->error == NULL || step >= question->step || strstr(question->error, "brokers are down"))
	{
		question->error = said;
		question->step = step;
	}
}

static void
take_answer(Question *question, GcFrame *frame)
{
	size_t		len;
	bool		ok;
	const char *error;

	(void) gc_frame_get_u32(frame);
	ok = gc_frame_get_u8(frame);
	error = gc_frame_get_text(frame, &len);
	question->trouble = gc_frame_get_u8(frame);
	question->nrows = gc_frame_get_u32(frame);
	question->ncolumns = gc_frame_get_u32(frame);
	question->rows = *frame;
	question->answered = true;
	question->failed = !ok;
	if (!ok && error != NULL)
	{
		/* what was said on the way knows more than "timed out" */
		if (question->error == NULL || question->trouble != GC_TROUBLE_TRANSIENT)
			remember(question, error, len);
	}
}

static void
take_server(Question *question, GcFrame *frame)
{
	uint8		state = gc_frame_get_u8(frame);
	size_t		len;
	const char *text = gc_frame_get_text(frame, &len);

	if (state == GC_SERVER_UP || text == NULL)
		return;
	remember(question, text, len);
	if (state == GC_SERVER_FAILED)
	{
		question->answered = question->failed = true;
		return;
	}
	if (state == GC_SERVER_DOWN && question->patient)
		return;
	/* all brokers are down or refuse us: not worth the whole timeout */
	question->deadline = Min(question->deadline,
							 TimestampTzPlusMilliseconds(GetCurrentTimestamp(), GRACE_MS));
}

static void
take_log(Question *question, GcFrame *frame)
{
	uint8		level = gc_frame_get_u8(frame);
	size_t		len;
	const char *text = gc_frame_get_text(frame, &len);

	/* syslog: 3 is an error */
	if (level <= 3 && text != NULL)
		remember(question, text, len);
}

static void
take_frames(Question *question)
{
	GcFrame		frame;

	while (!question->answered && gc_reader_next(question->reader, &frame))
	{
		if (!question->greeted && frame.type != GC_FRAME_LOG && frame.type != GC_FRAME_SERVER)
		{
			gc_reader_check_hello(&frame);
			question->greeted = true;
			continue;
		}
		switch (frame.type)
		{
			case GC_FRAME_ANSWER:
				take_answer(question, &frame);
				break;
			case GC_FRAME_SERVER:
				take_server(question, &frame);
				break;
			case GC_FRAME_LOG:
				take_log(question, &frame);
				break;
			default:
				break;
		}
		if (frame.bad)
			ereport(ERROR,
					(errcode(ERRCODE_PROTOCOL_VIOLATION),
					 errmsg("the reader program sent a frame that is too short")));
	}
}

/* Asks and waits until there is an answer, or none will come; question->failed says which. */
static void
ask(Question *question, GcQuery what, const char *topic, int64 number)
{
	GcReader   *reader = question->reader;

	question->answered = question->failed = false;
	gc_frame_begin(&reader->out, GC_FRAME_QUERY);
	gc_frame_put_u32(&reader->out, 1);
	gc_frame_put_u8(&reader->out, what);
	gc_frame_put_u32(&reader->out, question->timeout_ms);
	gc_frame_put_string(&reader->out, topic);
	gc_frame_put_u32(&reader->out, (uint32) -1);
	gc_frame_put_u64(&reader->out, (uint64) number);
	gc_frame_finish(&reader->out);

	for (;;)
	{
		long		timeout;

		gc_reader_pump(reader);
		take_frames(question);
		if (question->answered)
			return;
		if (reader->closed)
		{
			if (question->error == NULL)
				ereport(ERROR,
						(errcode(ERRCODE_CONNECTION_FAILURE),
						 errmsg("the reader program %s", gc_reader_death(reader))));
			break;
		}
		timeout = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), question->deadline);
		if (timeout == 0)
			break;
		(void) WaitLatchOrSocket(MyLatch, WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | WL_TIMEOUT | WL_SOCKET_READABLE |
								 (reader->out.len > 0 ? WL_SOCKET_WRITEABLE : 0),
								 reader->socket, timeout, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	question->failed = true;
	question->trouble = GC_TROUBLE_TRANSIENT;
}

/* The next value of the answer, NULL = null; bytes, not ended by NUL. */
static const char *
next_value(Question *question, size_t *len)
{
	const char *value = gc_frame_get_text(&question->rows, len);

	if (question->rows.bad)
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("the reader program sent an answer that is too short")));
	return value;
}

/* The same for a time, which is text with a zone. */
static bool
next_time(Question *question, TimestampTz *time)
{
	size_t		len;
	const char *value = next_value(question, &len);

	*time = 0;
	if (value == NULL)
		return false;
	*time = DatumGetTimestampTz(DirectFunctionCall3(timestamptz_in, CStringGetDatum(pnstrdup(value, len)),
													ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
	return true;
}

/* The same for a number. */
static bool
next_number(Question *question, int64 *number)
{
	size_t		len;
	const char *value = next_value(question, &len);
	char		digits[32];

	*number = 0;
	if (value == NULL || len >= sizeof(digits))
		return false;
	memcpy(digits, value, len);
	digits[len] = '\0';
	*number = strtoll(digits, NULL, 10);
	return true;
}

static void
check_columns(Question *question, int ncolumns)
{
	if (question->nrows > 0 && question->ncolumns != ncolumns)
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("the reader program answered with %u columns instead of %d", question->ncolumns, ncolumns)));
	/* each value has its length at least */
	if (question->nrows > (question->rows.end - question->rows.at) / (ncolumns * sizeof(uint32)))
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("the reader program sent an answer that is too short")));
}

/* Raises what went wrong. */
static void
complain(Question *question, const char *topic)
{
	const char *name = question->server->servername;
	char	   *check = psprintf("SELECT * FROM guest_context.check_server(%s);", quote_literal_cstr(name));

	if (question->trouble == GC_TROUBLE_NO_TOPIC && topic)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("topic \"%s\" does not exist on server \"%s\"", topic, name),
				 errhint("SELECT * FROM guest_context.topics(%s);", quote_literal_cstr(name))));
	if (question->trouble == GC_TROUBLE_DENIED)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("server \"%s\" denies what was asked: %s", name, question->error ? question->error : "not authorized"),
				 topic ? errdetail("The topic is \"%s\".", topic) : 0,
				 errhint("The broker's access lists must let this user read and describe the topic.")));
	if (question->trouble == GC_TROUBLE_UNREADABLE || question->trouble == GC_TROUBLE_TOO_LARGE)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("could not read from server \"%s\": %s", name, question->error ? question->error : "unreadable")));
	if (question->error == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("server \"%s\" did not answer within %d ms", name, question->timeout_ms),
				 errhint("%s", check)));
	ereport(ERROR,
			(errcode(ERRCODE_CONNECTION_FAILURE),
			 errmsg("could not read from server \"%s\": %s", name, question->error),
			 errhint("%s", check)));
}

/* Milliseconds of an argument `timeout`. */
static int
timeout_argument(Interval *timeout)
{
	int64		ms = timeout->time / 1000 + timeout->day * INT64CONST(86400000);

	if (timeout->month != 0 || ms <= 0 || ms > TIMEOUT_MAX_MS)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("timeout must be between 1 ms and 1 hour")));
	return (int) ms;
}

/* A reader for a role; in a context that PG_CATCH deletes, which ends it. */
static void
begin(Question *question, Oid server, Oid user, int timeout_ms)
{
	memset(question, 0, sizeof(*question));
	question->timeout_ms = timeout_ms;
	question->server = GetForeignServer(server);
	question->step = STEP_RESOLVE;
	question->deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), question->timeout_ms);
	question->reader = gc_reader_start(server, user, READER_MEMORY, false);
}

/*
 * check_server
 */

static void
put_step(ReturnSetInfo *result, const char *step, bool tried, bool ok, const char *detail)
{
	Datum		values[3] = {CStringGetTextDatum(step), BoolGetDatum(ok), (Datum) 0};
	bool		nulls[3] = {false, !tried, detail == NULL};

	if (detail)
		values[2] = CStringGetTextDatum(detail);
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/* What a step has found, when it went well. */
static const char *
good_detail(Step step, List *settings, const char *brokers, const char *cluster)
{
	const char *verification = gc_setting_value(settings, "enable.ssl.certificate.verification");
	const char *identification = gc_setting_value(settings, "ssl.endpoint.identification.algorithm");

	switch (step)
	{
		case STEP_RESOLVE:
			return gc_setting_value(settings, "bootstrap.servers");
		case STEP_CONNECT:
			return brokers;
		case STEP_TLS:
			if (verification && pg_strcasecmp(verification, "false") == 0)
				return "the brokers' certificates are not verified";
			if (identification && pg_strcasecmp(identification, "none") == 0)
				return "the names in the brokers' certificates are not verified";
			return "the brokers' certificates are verified";
		case STEP_AUTH:
			return gc_setting_value(settings, "sasl.mechanism");
		default:
			return cluster;
	}
}

/* Brokers of the answer to GC_QUERY_CLUSTER, and a sentence on the cluster. */
static void
read_cluster(Question *question, char **brokers, char **cluster)
{
	StringInfoData list;
	const char *controller = NULL;
	const char *id = NULL;

	initStringInfo(&list);
	check_columns(question, 3);
	for (uint32 i = 0; i < question->nrows; i++)
	{
		size_t		len;
		const char *value = next_value(question, &len);
		char	   *broker;

		if (value)
			id = gc_reader_text(value, len);
		value = next_value(question, &len);
		broker = value ? gc_reader_text(value, len) : "?";
		appendStringInfo(&list, "%s%s", list.len ? ", " : "", broker);
		value = next_value(question, &len);
		if (value && len == 1 && *value == 't')
			controller = broker;
	}
	*brokers = list.data;
	*cluster = psprintf("cluster %s, %u broker(s)%s%s", id ? id : "without an id", question->nrows,
						controller ? ", controller " : "", controller ? controller : "");
}

static void
report_kafka(Question *question, List *settings, ReturnSetInfo *result)
{
	const char *protocol = gc_setting_value(settings, "security.protocol");
	bool		tls = protocol && pg_strcasecmp(protocol + strlen(protocol) - 3, "SSL") == 0;
	bool		auth = protocol && pg_strncasecmp(protocol, "SASL", 4) == 0;
	char	   *brokers = NULL;
	char	   *cluster = NULL;
	Step		failed = STEP_COUNT;

	if (question->failed)
	{
		failed = question->error ? question->step : STEP_CONNECT;
		if ((failed == STEP_TLS && !tls) || (failed == STEP_AUTH && !auth))
			failed = STEP_CONNECT;
	}
	else
		read_cluster(question, &brokers, &cluster);
	for (Step step = STEP_RESOLVE; step < STEP_COUNT; step++)
	{
		if ((step == STEP_TLS && !tls) || (step == STEP_AUTH && !auth))
			continue;
		/* a connection that ends without a word may have ended in one of these */
		if (failed == STEP_METADATA && question->trouble != GC_TROUBLE_DENIED &&
			(step == STEP_TLS || step == STEP_AUTH))
			put_step(result, step_names[step], false, false, NULL);
		else if (step < failed)
			put_step(result, step_names[step], true, true, good_detail(step, settings, brokers, cluster));
		else if (step > failed)
			put_step(result, step_names[step], false, false, NULL);
		else
			put_step(result, step_names[step], true, false,
					 question->error ? question->error :
					 psprintf("no answer within %d ms", question->timeout_ms));
	}
}

static void
report_files(Question *question, List *settings, ReturnSetInfo *result)
{
	const char *directory = gc_setting_value(settings, "directory");

	if (question->failed)
		put_step(result, "directory", true, false,
				 question->error ? question->error : psprintf("no answer within %d ms", question->timeout_ms));
	else
		put_step(result, "directory", true, true, directory);
	put_step(result, "metadata", !question->failed, !question->failed,
			 question->failed ? NULL : psprintf("%u partition(s)", question->nrows));
}

/*
 * check_server(server name, timeout interval) -> table (step text, ok boolean, detail text)
 */
Datum
gc_check_server(PG_FUNCTION_ARGS)
{
	Oid			server = gc_server_oid(NameStr(*PG_GETARG_NAME(0)));
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "check_server", ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller;
	List	   *settings;
	Question	question;

	gc_check_encoding();
	InitMaterializedSRF(fcinfo, 0);
	caller = MemoryContextSwitchTo(context);
	PG_TRY();
	{
		bool		file = strcmp(gc_server_kind(server), "file") == 0;

		settings = gc_server_settings(server, GetUserId());
		begin(&question, server, GetUserId(), timeout_argument(PG_GETARG_INTERVAL_P(1)));
		ask(&question, file ? GC_QUERY_TOPICS : GC_QUERY_CLUSTER, NULL, 0);
		if (file)
			report_files(&question, settings, (ReturnSetInfo *) fcinfo->resultinfo);
		else
			report_kafka(&question, settings, (ReturnSetInfo *) fcinfo->resultinfo);
		gc_reader_stop(question.reader);
	}
	PG_FINALLY();
	{
		MemoryContextSwitchTo(caller);
		MemoryContextDelete(context);
	}
	PG_END_TRY();
	return (Datum) 0;
}

/*
 * topics
 */

/* The partitions of one topic, added up. */
typedef struct Topic
{
	char	   *name;			/* NULL = none yet */
	int32		partitions;
	int64		low;
	int64		high;
	bool		known;			/* low and high, of all partitions */
} Topic;

static void
put_topic(ReturnSetInfo *result, Topic *topic)
{
	Datum		values[4];
	bool		nulls[4] = {false, false, !topic->known, !topic->known};

	if (topic->name == NULL)
		return;
	values[0] = CStringGetTextDatum(topic->name);
	values[1] = Int32GetDatum(topic->partitions);
	values[2] = Int64GetDatum(topic->low);
	values[3] = Int64GetDatum(topic->high);
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/* The reader answers with one row a partition, those of a topic together. */
static void
read_topics(Question *question, ReturnSetInfo *result)
{
	Topic		topic = {.name = NULL};

	check_columns(question, 4);
	for (uint32 i = 0; i < question->nrows; i++)
	{
		size_t		len;
		const char *value = next_value(question, &len);
		char	   *name = value ? gc_reader_text(value, len) : "";
		int64		partition;
		int64		low;
		int64		high;

		if (topic.name == NULL || strcmp(topic.name, name) != 0)
		{
			put_topic(result, &topic);
			topic = (Topic) {.name = name, .known = true};
		}
		(void) next_number(question, &partition);
		if (!next_number(question, &low) || low < 0)
			topic.known = false;
		if (!next_number(question, &high) || high < 0)
			topic.known = false;
		topic.partitions++;
		topic.low += low;
		topic.high += high;
	}
	put_topic(result, &topic);
}

/*
 * topics(server name, timeout interval) -> table (topic text, partitions integer, low bigint, high bigint)
 */
Datum
gc_topics(PG_FUNCTION_ARGS)
{
	Oid			server = gc_server_oid(NameStr(*PG_GETARG_NAME(0)));
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "topics", ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller;
	Question	question;

	gc_check_encoding();
	InitMaterializedSRF(fcinfo, 0);
	caller = MemoryContextSwitchTo(context);
	PG_TRY();
	{
		begin(&question, server, GetUserId(), timeout_argument(PG_GETARG_INTERVAL_P(1)));
		ask(&question, GC_QUERY_TOPICS, NULL, 0);
		if (question.failed)
			complain(&question, NULL);
		read_topics(&question, (ReturnSetInfo *) fcinfo->resultinfo);
		gc_reader_stop(question.reader);
	}
	PG_FINALLY();
	{
		MemoryContextSwitchTo(caller);
		MemoryContextDelete(context);
	}
	PG_END_TRY();
	return (Datum) 0;
}

/*
 * The ends of one topic, for wait_for_head
 */

/* Raises what went wrong for somebody who may read an entity: what a broker says is for the log. */
static void
complain_little(Question *question, const char *topic)
{
	if (question->trouble == GC_TROUBLE_NO_TOPIC)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("topic \"%s\" does not exist on server \"%s\"", topic, question->server->servername),
				 errhint("SELECT * FROM guest_context.status;")));
	ereport(ERROR,
			(errcode(ERRCODE_CONNECTION_FAILURE),
			 errmsg("server \"%s\" does not say where topic \"%s\" ends", question->server->servername, topic),
			 question->trouble == GC_TROUBLE_DENIED ? errdetail("It does not let the entity's owner.") :
			 errdetail("There was no answer in time."),
			 question->error ? errdetail_log("%s", question->error) : 0,
			 errhint("SELECT * FROM guest_context.status;")));
}

/* The answer, in this context; false when some partition has no leader just now. */
static bool
read_ranges(Question *question, MemoryContext context, GcRange **ranges)
{
	bool		known = true;

	check_columns(question, 4);
	*ranges = MemoryContextAlloc(context, sizeof(GcRange) * question->nrows);
	for (uint32 i = 0; i < question->nrows; i++)
	{
		GcRange    *range = &(*ranges)[i];
		size_t		len;
		int64		partition;

		(void) next_value(question, &len);
		(void) next_number(question, &partition);
		range->partition = (int32) partition;
		if (!next_number(question, &range->low) || range->low < 0)
			known = false;
		if (!next_number(question, &range->high) || range->high < 0)
			known = false;
	}
	return known;
}

GcRange *
gc_topic_ranges(Oid server, Oid user, const char *topic, int timeout_ms, int *count)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "topic ranges", ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(context);
	GcRange    *ranges = NULL;
	Question	question;

	PG_TRY();
	{
		begin(&question, server, user, timeout_ms);
		question.patient = true;
		for (;;)
		{
			ask(&question, GC_QUERY_TOPICS, topic, 0);
			if (!question.failed && read_ranges(&question, caller, &ranges))
				break;
			if ((question.failed && question.trouble != GC_TROUBLE_TRANSIENT) || question.reader->closed ||
				GetCurrentTimestamp() >= question.deadline)
				complain_little(&question, topic);
			(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, AGAIN_MS, PG_WAIT_EXTENSION);
			ResetLatch(MyLatch);
			CHECK_FOR_INTERRUPTS();
		}
		*count = question.nrows;
		gc_reader_stop(question.reader);
	}
	PG_FINALLY();
	{
		MemoryContextSwitchTo(caller);
		MemoryContextDelete(context);
	}
	PG_END_TRY();
	return ranges;
}

/*
 * peek
 */

/* Bytes as text; what no text can hold is shown as a bytea is. */
static Datum
bytes_as_text(const char *bytes, size_t len)
{
	text	   *shown;

	/* hexadecimal digits must fit into a value */
	if (len > (MaxAllocSize - VARHDRSZ - 2) / 2)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("a record is too large to be shown")));
	if (memchr(bytes, '\0', len) == NULL && pg_verify_mbstr(PG_UTF8, bytes, len, true))
		return PointerGetDatum(cstring_to_text_with_len(bytes, len));
	shown = palloc(VARHDRSZ + 2 + 2 * len);
	memcpy(VARDATA(shown), "\\x", 2);
	SET_VARSIZE(shown, VARHDRSZ + 2 + hex_encode(bytes, len, VARDATA(shown) + 2));
	return PointerGetDatum(shown);
}

/* A record of the answer; its bytes are there as long as the answer is. */
typedef struct Record
{
	int64		partition;
	int64		offset;
	TimestampTz time;			/* DT_NOBEGIN = none */
	TimestampTz age;			/* the latest time in its partition up to here */
	const char *bytes[2];		/* key and value, NULL = null */
	size_t		len[2];
} Record;

static int
compare_records(const void *a, const void *b)
{
	const Record *x = a;
	const Record *y = b;

	if (x->age != y->age)
		return x->age < y->age ? -1 : 1;
	if (x->partition != y->partition)
		return x->partition < y->partition ? -1 : 1;
	return x->offset < y->offset ? -1 : x->offset > y->offset;
}

static void
put_record(ReturnSetInfo *result, const Record *record)
{
	Datum		values[5];
	bool		nulls[5] = {false, false, record->time == DT_NOBEGIN, !record->bytes[0], !record->bytes[1]};

	values[0] = Int32GetDatum((int32) record->partition);
	values[1] = Int64GetDatum(record->offset);
	values[2] = TimestampTzGetDatum(record->time);
	for (int i = 0; i < 2; i++)
		values[3 + i] = record->bytes[i] ? bytes_as_text(record->bytes[i], record->len[i]) : (Datum) 0;
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/*
 * The reader answers with the newest n of each partition, one partition after the other. Of those the newest n, by
 * time between partitions, and in a partition by offset, whatever its producers take for the time.
 */
static void
read_records(Question *question, int n, ReturnSetInfo *result)
{
	MemoryContext row = AllocSetContextCreate(CurrentMemoryContext, "peek row", ALLOCSET_DEFAULT_SIZES);
	int			room = 64;
	int			count = 0;
	Record	   *records = palloc(room * sizeof(Record));

	check_columns(question, 5);
	for (uint32 i = 0; i < question->nrows; i++)
	{
		Record	   *record;

		if (count == room)
			records = repalloc_huge(records, (room *= 2) * sizeof(Record));
		record = &records[count++];
		(void) next_number(question, &record->partition);
		(void) next_number(question, &record->offset);
		if (!next_time(question, &record->time))
			record->time = DT_NOBEGIN;
		record->age = record->time;
		if (count > 1 && record[-1].partition == record->partition)
			record->age = Max(record->age, record[-1].age);
		for (int j = 0; j < 2; j++)
			record->bytes[j] = next_value(question, &record->len[j]);
	}
	qsort(records, count, sizeof(Record), compare_records);
	for (int i = Max(count - n, 0); i < count; i++)
	{
		MemoryContext caller = MemoryContextSwitchTo(row);

		put_record(result, &records[i]);
		MemoryContextSwitchTo(caller);
		MemoryContextReset(row);
	}
}

/*
 * peek(server name, topic text, n integer, timeout interval)
 *		-> table (partition integer, record_offset bigint, ts timestamptz, key text, value text)
 */
Datum
gc_peek(PG_FUNCTION_ARGS)
{
	Oid			server = gc_server_oid(NameStr(*PG_GETARG_NAME(0)));
	char	   *topic = text_to_cstring(PG_GETARG_TEXT_PP(1));
	int32		n = PG_GETARG_INT32(2);
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "peek", ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller;
	Question	question;

	gc_check_encoding();
	gc_topic_check_name(topic);
	if (n < 1 || n > PEEK_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("n must be between 1 and %d", PEEK_MAX)));
	InitMaterializedSRF(fcinfo, 0);
	caller = MemoryContextSwitchTo(context);
	PG_TRY();
	{
		begin(&question, server, GetUserId(), timeout_argument(PG_GETARG_INTERVAL_P(3)));
		ask(&question, GC_QUERY_PEEK, topic, n);
		if (question.failed)
			complain(&question, topic);
		read_records(&question, n, (ReturnSetInfo *) fcinfo->resultinfo);
		gc_reader_stop(question.reader);
	}
	PG_FINALLY();
	{
		MemoryContextSwitchTo(caller);
		MemoryContextDelete(context);
	}
	PG_END_TRY();
	return (Datum) 0;
}
