/*
 * subscription.c: a topic, the changelogs that read it, and records as frames.
 *
 * Every changelog decodes every record of its topic with its own mapping and filter. A mapping that
 * does not compile, which the server has ruled out, makes every record of its changelog bad, so that
 * nothing is lost and the neighbours go on.
 */
#include "reader.h"

/* What a record may occupy beside its bytes: heads, errors, room for the last text. */
#define FRAME_SLACK		(1024 * 1024)

static char *
get_string(GcFrame *frame)
{
	size_t		len;
	const char *text = gc_frame_get_text(frame, &len);

	if (text == NULL)
		return NULL;
	if (memchr(text, '\0', len) != NULL)
		frame->bad = true;
	return pnstrdup(text, len);
}

static void
read_changelog(GcFrame *frame, GcChangelog *changelog)
{
	GcMappingSpec spec = {0};
	GcDecodeColumn *columns = NULL;
	uint64		max_value;
	uint32		ncolumns;
	int			envelope;

	changelog->id = (int32) gc_frame_get_u32(frame);
	envelope = gc_frame_get_u8(frame);
	spec.envelope = (GcEnvelope) envelope;
	spec.mapping = get_string(frame);
	spec.filter = get_string(frame);
	max_value = gc_frame_get_u64(frame);
	spec.max_value_bytes = (size_t) Min(max_value, (uint64) GC_MAX_VALUE_BYTES_LIMIT);
	ncolumns = gc_frame_get_u32(frame);

	/* a column is at least seven bytes of the frame */
	if (!frame->bad && ncolumns <= (uint32) ((frame->end - frame->at) / 7))
	{
		columns = pg_malloc0(Max(ncolumns, 1) * sizeof(GcDecodeColumn));
		for (uint32 i = 0; i < ncolumns && !frame->bad; i++)
		{
			int			flags;

			columns[i].name = get_string(frame);
			columns[i].kind = (GcColumnKind) gc_frame_get_u8(frame);
			columns[i].element = (GcColumnKind) gc_frame_get_u8(frame);
			flags = gc_frame_get_u8(frame);
			columns[i].is_key = (flags & 1) != 0;
			columns[i].is_version = (flags & 2) != 0;
			columns[i].is_unmapped = (flags & 4) != 0;
			if (columns[i].name == NULL || columns[i].kind > GC_KIND_DATE || columns[i].element > GC_KIND_DATE ||
				columns[i].element == GC_KIND_ARRAY)
				frame->bad = true;
		}
	}
	else
		frame->bad = true;
	if (envelope > GC_ENVELOPE_DEBEZIUM)
		frame->bad = true;

	if (!frame->bad)
	{
		spec.columns = columns;
		spec.ncolumns = changelog->ncolumns = (int) ncolumns;
		changelog->mapping = gc_mapping_compile(&spec, &changelog->error);
	}
	for (uint32 i = 0; columns != NULL && i < ncolumns; i++)
		pg_free(unconstify(char *, columns[i].name));
	pg_free(columns);
	pg_free(unconstify(char *, spec.mapping));
	pg_free(unconstify(char *, spec.filter));
}

/* Of a SUBSCRIBE. */
GcSubscription *
gc_subscription_read(GcFrame *frame)
{
	GcSubscription *subscription = pg_malloc0(sizeof(GcSubscription));
	uint32		n;

	subscription->id = gc_frame_get_u32(frame);
	subscription->topic = get_string(frame);
	n = gc_frame_get_u32(frame);
	if (subscription->topic == NULL || subscription->topic[0] == '\0' || n > (uint32) (frame->end - frame->at))
		frame->bad = true;
	if (!frame->bad)
		subscription->changelogs = pg_malloc0(Max(n, 1) * sizeof(GcChangelog));
	for (uint32 i = 0; i < n && !frame->bad; i++)
	{
		subscription->nchangelogs++;
		read_changelog(frame, &subscription->changelogs[i]);
	}
	if (!gc_frame_end(frame))
	{
		gc_subscription_free(subscription);
		return NULL;
	}
	return subscription;
}

void
gc_subscription_free(GcSubscription *subscription)
{
	for (int i = 0; i < subscription->nchangelogs; i++)
		if (subscription->changelogs[i].mapping)
			gc_mapping_free(subscription->changelogs[i].mapping);
	pg_free(subscription->changelogs);
	pg_free(subscription->topic);
	pg_free(subscription);
}

static void
put_error(GcFrameBuffer *out, GcDecodeStatus status, const GcDecodeError *error)
{
	gc_frame_put_u8(out, (uint8) status);
	gc_frame_put_string(out, error->sqlstate);
	gc_frame_put_string(out, error->message);
	gc_frame_put_string(out, error->detail);
	gc_frame_put_string(out, error->hint);
}

/* How many bytes the columns' texts are. */
static size_t
decoded_bytes(const GcDecoded *decoded, int ncolumns)
{
	size_t		bytes = 0;

	for (int i = 0; i < ncolumns; i++)
		bytes += 1 + (decoded->fields[i].state == GC_FIELD_TEXT ? sizeof(uint32) + decoded->fields[i].len : 0);
	return bytes;
}

/* Returns whether the changelog has something to do with the record. */
static bool
put_decoding(GcFrameBuffer *out, GcChangelog *changelog, GcMessage *message)
{
	GcDecoded  *decoded = &changelog->decoded;
	int			ncolumns;

	if (message->malformed)
	{
		gc_fail(&decoded->error, GC_ERROR_SYNTAX, "22P02", "line is not a record");
		gc_detail(&decoded->error, "%s.", message->malformed);
		decoded->status = GC_DECODE_BAD;
	}
	else if (changelog->mapping == NULL)
	{
		decoded->error = changelog->error;
		decoded->status = GC_DECODE_BAD;
	}
	else
		gc_decode(changelog->mapping, &message->in, decoded);

	switch (decoded->status)
	{
		case GC_DECODE_FILTERED:
		case GC_DECODE_IGNORED:
			return false;
		case GC_DECODE_BAD:
		case GC_DECODE_HALT:
			break;
		case GC_DECODE_UPSERT:
		case GC_DECODE_TOMBSTONE:
			ncolumns = changelog->ncolumns;
			if (out->len - out->start + decoded_bytes(decoded, ncolumns) > GC_FRAME_MAX - FRAME_SLACK)
			{
				gc_fail(&decoded->error, GC_ERROR_LIMIT, "54000", "record is too large for all changelogs that read it");
				decoded->status = GC_DECODE_BAD;
				break;
			}
			gc_frame_put_u32(out, (uint32) changelog->id);
			gc_frame_put_u8(out, (uint8) decoded->status);
			gc_frame_put_u64(out, (uint64) decoded->version_us);
			gc_frame_put_u32(out, (uint32) ncolumns);
			for (int i = 0; i < ncolumns; i++)
			{
				gc_frame_put_u8(out, (uint8) decoded->fields[i].state);
				if (decoded->fields[i].state == GC_FIELD_TEXT)
					gc_frame_put_text(out, decoded->fields[i].text, decoded->fields[i].len);
			}
			return true;
	}
	gc_frame_put_u32(out, (uint32) changelog->id);
	put_error(out, decoded->status, &decoded->error);
	return true;
}

/*
 * Appends the frame of a record, unless it means nothing to any changelog. False when it cannot be a
 * frame at all.
 */
bool
gc_record_put(GcFrameBuffer *out, GcPart *part, GcTaken *taken, GcMessage *message)
{
	GcSubscription *subscription = part->subscription;
	GcDecodeInput *in = &message->in;
	size_t		before = out->len;
	size_t		raw = in->value_len + in->key_len;
	size_t		count_at;
	uint32		count = 0;

	for (int i = 0; i < in->nheaders; i++)
		raw += strlen(in->headers[i].name) + in->headers[i].value_len + 2 * sizeof(uint32);
	if (raw > GC_FRAME_MAX - FRAME_SLACK)
		return false;

	gc_frame_begin(out, GC_FRAME_RECORD);
	gc_frame_put_u32(out, subscription->id);
	gc_frame_put_u32(out, (uint32) part->partition);
	gc_frame_put_u32(out, part->epoch);
	gc_frame_put_u64(out, (uint64) taken->offset);
	gc_frame_put_u64(out, (uint64) in->timestamp_us);
	gc_frame_put_text(out, in->key, in->key_len);
	gc_frame_put_text(out, in->value, in->value_len);
	gc_frame_put_u32(out, (uint32) in->nheaders);
	for (int i = 0; i < in->nheaders; i++)
	{
		gc_frame_put_string(out, in->headers[i].name);
		gc_frame_put_text(out, in->headers[i].value, in->headers[i].value_len);
	}
	count_at = out->len;
	gc_frame_put_u32(out, 0);
	for (int i = 0; i < subscription->nchangelogs; i++)
		if (put_decoding(out, &subscription->changelogs[i], message))
			count++;
	if (count == 0)
	{
		out->len = out->start = before;
		return true;
	}
	memcpy(out->data + count_at, &count, sizeof(count));
	gc_frame_finish(out);
	return true;
}
