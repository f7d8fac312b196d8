/*
 * loop.c: the event loop: frames in, records out, nothing that blocks.
 *
 * One round reads the server's frames, takes records from the source while the out buffer has room,
 * writes what the socket takes and waits in poll(). When the server does not read, the out
 * buffer stays full, nothing more is taken, and the source's own queue stops fetching: memory
 * stays bounded from end to end.
 *
 * Credit. A partition without any keeps what was taken for it (held). When that becomes too much, the loop
 * first stops taking at all for a moment: mostly the server is about to commit, and pausing makes the
 * library throw away what it has fetched. Only then the partition is paused, and its neighbours go on.
 *
 * Errors. A frame that does not fit, an option that is refused, a fatal error of the library: a
 * SERVER frame says FAILED, and the program ends with status 1. The end of the stream ends it at once.
 */
#include "reader.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#define TAKE_AT_ONCE		1000	/* records before the server's frames are looked at again */
#define READ_AT_ONCE		(64 * 1024)
#define TELL_MS				1000	/* a position, when records go by */
#define HOLD_MS				200 /* for which a full partition stops its neighbours */
#define PING_MS				1000
#define PING_UP_MS			5000
#define PING_TIMEOUT_MS		4000
#define RANGE_TIMEOUT_MS	10000
#define COMMIT_MS			500
#define LOG_LINES			20	/* in LOG_MS; the others are counted */
#define LOG_MS				10000

GcFrameBuffer gc_out;

static size_t out_done;			/* bytes of gc_out that have been written */
static size_t out_limit;
static char *in;
static size_t in_len;
static size_t in_room;
static const GcSource *source;	/* NULL = not configured */
static GcSettings settings;
static GcSubscription *subscriptions;
static GcPart *parts;
static int	nparts;				/* active */
static size_t hold_limit;
static GcServerState state;		/* 0 = not known */
static bool ping_asked;
static int64 ping_at;
static int64 commit_at;
static bool commit_due;
static int64 log_at;
static int	log_lines;
static pid_t parent;

const char *
gc_setting(const GcSettings *of, const char *name)
{
	for (int i = 0; i < of->noptions; i++)
		if (strcmp(of->options[i].name, name) == 0)
			return of->options[i].value;
	return NULL;
}

/* The socket's other end is gone: nobody is left to tell. */
static void
lost(void)
{
	_exit(0);
}

static void
write_out(void)
{
	while (out_done < gc_out.len)
	{
		ssize_t		n = send(STDIN_FILENO, gc_out.data + out_done, gc_out.len - out_done, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			break;
		if (n < 0)
			lost();
		out_done += (size_t) n;
	}

	/* moving what is left costs; do it when there is little of it */
	if (out_done == gc_out.len || out_done > gc_out.len / 2)
	{
		gc_frame_consume(&gc_out, out_done);
		out_done = 0;
	}
}

static bool
out_full(void)
{
	return gc_out.len - out_done >= out_limit;
}

static void
put_server(const char *text)
{
	gc_frame_begin(&gc_out, GC_FRAME_SERVER);
	gc_frame_put_u8(&gc_out, (uint8) state);
	gc_frame_put_string(&gc_out, text ? text : "");
	gc_frame_finish(&gc_out);
}

/* Tells the server why, as far as it listens for a second, and ends. */
static void fail(const char *text) pg_attribute_noreturn();

static void
fail(const char *text)
{
	int64		until = gc_now() + 1000;

	state = GC_SERVER_FAILED;
	put_server(text);
	while (write_out(), gc_out.len > 0 && gc_now() < until)
	{
		struct pollfd fd = {STDIN_FILENO, POLLOUT, 0};

		poll(&fd, 1, 100);
	}
	_exit(1);
}

/*
 * What the sources tell
 */

void
gc_loop_log(int level, const char *text)
{
	int64		now = gc_now();

	if (now - log_at >= LOG_MS)
	{
		int			missed = log_lines - LOG_LINES;

		log_at = now;
		log_lines = 0;
		if (missed > 0)
		{
			char		line[64];

			snprintf(line, sizeof(line), "%d more lines were left out", missed);
			gc_loop_log(5, line);
		}
	}
	if (log_lines++ >= LOG_LINES)
		return;
	gc_frame_begin(&gc_out, GC_FRAME_LOG);
	gc_frame_put_u8(&gc_out, (uint8) level);
	gc_frame_put_string(&gc_out, text);
	gc_frame_finish(&gc_out);
}

void
gc_loop_server(GcServerState new_state, const char *text)
{
	if (state == new_state)
		return;
	if (new_state == GC_SERVER_FAILED)
		fail(text);
	state = new_state;
	ping_at = gc_now() + (state == GC_SERVER_UP ? PING_UP_MS : PING_MS);
	put_server(text);
}

static void
tell_position(GcPart *part)
{
	bool		at_end = part->end_at >= 0 && part->position >= part->end_at;
	int64		end = at_end ? part->end_at : source->end(part);

	gc_frame_begin(&gc_out, GC_FRAME_POSITION);
	gc_frame_put_u32(&gc_out, part->subscription->id);
	gc_frame_put_u32(&gc_out, (uint32) part->partition);
	gc_frame_put_u32(&gc_out, part->epoch);
	gc_frame_put_u64(&gc_out, (uint64) part->position);
	gc_frame_put_u64(&gc_out, (uint64) (end < 0 ? -1 : Max(end, part->position)));
	gc_frame_put_u8(&gc_out, at_end);
	gc_frame_finish(&gc_out);
	part->told = part->position;
	part->told_at = gc_now();
	part->end_told = at_end;
}

static void
tell_trouble(uint32 subscription, int32 partition, uint32 epoch, GcTrouble trouble, int64 offset, int64 low,
			 int64 high, const char *text)
{
	gc_frame_begin(&gc_out, GC_FRAME_TROUBLE);
	gc_frame_put_u32(&gc_out, subscription);
	gc_frame_put_u32(&gc_out, (uint32) partition);
	gc_frame_put_u32(&gc_out, epoch);
	gc_frame_put_u8(&gc_out, (uint8) trouble);
	gc_frame_put_u64(&gc_out, (uint64) offset);
	gc_frame_put_u64(&gc_out, (uint64) low);
	gc_frame_put_u64(&gc_out, (uint64) high);
	gc_frame_put_string(&gc_out, text);
	gc_frame_finish(&gc_out);
}

/* Behind the last held record: what has waited for it. */
static void
settle(GcPart *part)
{
	if (part->held != NULL)
		return;
	if (part->end_at >= 0)
	{
		bool		moved = part->end_at > part->position;

		if (moved)
			part->position = part->end_at;
		if (moved || !part->end_told)
			tell_position(part);
	}
	if (part->trouble_due)
	{
		part->trouble_due = false;
		if (part->position > part->told)
			tell_position(part);
		if (part->trouble == GC_TROUBLE_OUT_OF_RANGE)
		{
			GcJob	   *job = pg_malloc0(sizeof(GcJob));

			job->kind = GC_JOB_RANGE;
			job->id = part->subscription->id;
			job->topic = pg_strdup(part->subscription->topic);
			job->partition = part->partition;
			job->epoch = part->epoch;
			job->trouble = part->trouble;
			job->number = part->trouble_at;
			job->low = job->high = -1;
			job->deadline = gc_now() + RANGE_TIMEOUT_MS;
			strlcpy(job->text, part->trouble_text, sizeof(job->text));
			gc_probe_ask(job);
		}
		else
			tell_trouble(part->subscription->id, part->partition, part->epoch, part->trouble, part->trouble_at,
						 -1, -1, part->trouble_text);
	}
}

/* All before offset has been taken, and there is no more now. */
void
gc_loop_end(GcPart *part, int64 offset)
{
	if (!part->active)
		return;
	part->taken = Max(part->taken, offset);
	part->end_at = part->taken;
	part->trouble = GC_TROUBLE_NONE;
	settle(part);
}

static void
stop_reading(GcPart *part)
{
	if (!part->active)
		return;
	part->active = false;
	nparts--;
	if (part->assigned)
	{
		source->unassign(part);

		/* another subscription may have waited for it */
		for (GcPart *other = parts; other; other = other->next)
			if (other->active && !other->assigned && other->partition == part->partition &&
				strcmp(other->subscription->topic, part->subscription->topic) == 0)
			{
				source->assign(other);
				break;
			}
	}
}

void
gc_loop_trouble(GcPart *part, GcTrouble trouble, int64 offset, const char *text)
{
	if (!part->active)
		return;
	if (trouble == GC_TROUBLE_TRANSIENT)
	{
		if (part->trouble != trouble)
			tell_trouble(part->subscription->id, part->partition, part->epoch, trouble, offset, -1, -1, text);
		part->trouble = trouble;
		return;
	}
	part->trouble = trouble;
	part->trouble_due = true;
	part->trouble_at = offset;
	pg_free(part->trouble_text);
	part->trouble_text = pg_strdup(text ? text : "");
	stop_reading(part);
	settle(part);
}

/*
 * Records
 */

/* Makes a record's frame. */
static void
deliver(GcTaken *taken)
{
	GcPart	   *part = taken->part;
	GcMessage	message = {0};
	size_t		before = gc_out.len;
	bool		fits;

	source->fill(taken, &message);
	fits = gc_record_put(&gc_out, part, taken, &message);
	if (gc_out.len > before)
		part->credit -= (int64) (gc_out.len - before - GC_FRAME_HEAD);
	if (fits)
		part->position = taken->after;
	source->release(taken);
	if (!fits)
		gc_loop_trouble(part, GC_TROUBLE_TOO_LARGE, taken->offset, "record is larger than a frame can be");
}

static void
drop_held(GcPart *part)
{
	while (part->held != NULL)
	{
		GcTaken    *taken = part->held;

		part->held = taken->next;
		source->release(taken);
		pg_free(taken);
	}
	part->held_tail = &part->held;
	part->held_bytes = 0;
	part->held_full_at = 0;
}

static void
hold(const GcTaken *taken)
{
	GcPart	   *part = taken->part;
	GcTaken    *kept = pg_malloc(sizeof(GcTaken));

	*kept = *taken;
	kept->next = NULL;
	*part->held_tail = kept;
	part->held_tail = &kept->next;
	part->held_bytes += taken->bytes;
	if (part->held_bytes >= hold_limit && part->held_full_at == 0)
		part->held_full_at = gc_now();
}

/* What credit and room allow of what is held. */
static void
deliver_held(GcPart *part)
{
	if (part->held == NULL)
		return;
	while (part->held != NULL && part->credit > 0 && !out_full())
	{
		GcTaken    *taken = part->held;

		part->held = taken->next;
		part->held_bytes -= taken->bytes;
		if (part->held == NULL)
			part->held_tail = &part->held;
		deliver(taken);
		pg_free(taken);
	}
	if (part->held_bytes < hold_limit)
		part->held_full_at = 0;
	settle(part);
	if (part->held == NULL && part->paused && part->assigned)
	{
		part->paused = false;
		source->pause(part, false);
	}
}

/* True while a partition is full and its neighbours have to wait for it. */
static bool
blocked(void)
{
	bool		wait = false;

	for (GcPart *part = parts; part; part = part->next)
	{
		if (part->held_full_at == 0 || part->paused || !part->assigned)
			continue;
		if (gc_now() - part->held_full_at < HOLD_MS)
			wait = true;
		else
		{
			part->paused = true;
			source->pause(part, true);
		}
	}
	return wait;
}

/* Sets *more: there may be more at once. Returns whether it is worth waiting for the source. */
static bool
take_records(bool *more)
{
	GcTaken		taken;

	*more = false;

	for (GcPart *part = parts; part; part = part->next)
		if (part->credit > 0)
			deliver_held(part);
	for (int i = 0; i < TAKE_AT_ONCE; i++)
	{
		if (out_full() || blocked())
			return false;
		if (!source->take(&taken))
			return true;
		if (!taken.part->active || taken.offset < taken.part->taken)
		{
			/* read once more after a pause */
			source->release(&taken);
			continue;
		}
		taken.part->taken = taken.after;
		taken.part->end_at = -1;
		taken.part->end_told = false;
		taken.part->trouble = GC_TROUBLE_NONE;
		if (taken.part->held == NULL && taken.part->credit > 0)
			deliver(&taken);
		else
			hold(&taken);
	}
	*more = true;
	return true;
}

/*
 * Frames
 */

static GcSubscription *
find_subscription(uint32 id)
{
	for (GcSubscription *subscription = subscriptions; subscription; subscription = subscription->next)
		if (subscription->id == id)
			return subscription;
	return NULL;
}

static GcPart *
find_part(uint32 subscription, int32 partition)
{
	for (GcPart *part = parts; part; part = part->next)
		if (part->partition == partition && part->subscription->id == subscription)
			return part;
	return NULL;
}

static void
share_out(void)
{
	size_t		memory = settings.memory ? (size_t) Min(settings.memory, (uint64) 1 << 30) : 64 * 1024 * 1024;

	out_limit = Min(Max(memory / 8, 256 * 1024), 8 * 1024 * 1024);
	hold_limit = Min(Max(memory / 16 / Max(nparts, 1), 64 * 1024), 1024 * 1024);
}

static void
forget_part(GcPart *gone)
{
	GcPart	  **link = &parts;

	stop_reading(gone);
	drop_held(gone);
	while (*link != gone)
		link = &(*link)->next;
	*link = gone->next;
	pg_free(gone->trouble_text);
	pg_free(gone);
	share_out();
}

static void
assign(uint32 id, int32 partition, uint32 epoch, int64 offset)
{
	GcSubscription *subscription = find_subscription(id);
	GcPart	   *part = find_part(id, partition);

	if (subscription == NULL || partition < 0 || offset < 0)
		fail("protocol violation: ASSIGN of something that is not there");
	if (part != NULL)
		forget_part(part);
	part = pg_malloc0(sizeof(GcPart));
	part->subscription = subscription;
	part->partition = partition;
	part->epoch = epoch;
	part->active = true;
	part->taken = part->position = part->told = offset;
	part->told_at = gc_now();
	part->end_at = -1;
	part->commit = -1;
	part->held_tail = &part->held;
	part->next = parts;
	parts = part;
	nparts++;
	share_out();

	/* one handle cannot read a partition twice: the second subscription waits until the first has done */
	for (GcPart *other = part->next; other; other = other->next)
		if (other->assigned && other->partition == partition &&
			strcmp(other->subscription->topic, subscription->topic) == 0)
		{
			gc_loop_trouble(part, GC_TROUBLE_TRANSIENT, offset, "partition is being read by another subscription");
			return;
		}
	source->assign(part);
}

static void
subscribe(GcFrame *frame)
{
	GcSubscription *subscription = gc_subscription_read(frame);
	GcSubscription *old;
	GcSubscription **link = &subscriptions;

	if (subscription == NULL)
		return;					/* the frame is bad, which the caller sees */
	old = find_subscription(subscription->id);
	if (old != NULL && subscription->nchangelogs > 0)
	{
		GcSubscription swap = *old;

		if (strcmp(old->topic, subscription->topic) != 0)
			fail("protocol violation: SUBSCRIBE to another topic by the same number");
		old->changelogs = subscription->changelogs;
		old->nchangelogs = subscription->nchangelogs;
		subscription->changelogs = swap.changelogs;
		subscription->nchangelogs = swap.nchangelogs;
	}
	else if (old != NULL)
	{
		for (GcPart *part = parts, *next; part; part = next)
		{
			next = part->next;
			if (part->subscription == old)
				forget_part(part);
		}
		while (*link != old)
			link = &(*link)->next;
		*link = old->next;
		gc_subscription_free(old);
	}
	else if (subscription->nchangelogs > 0)
	{
		subscription->next = subscriptions;
		subscriptions = subscription;
		return;
	}
	gc_subscription_free(subscription);
}

static char *
get_string(GcFrame *frame)
{
	size_t		len;
	const char *text = gc_frame_get_text(frame, &len);

	if (text == NULL || memchr(text, '\0', len) != NULL)
	{
		frame->bad = true;
		return pg_strdup("");
	}
	return pnstrdup(text, len);
}

static void
configure(GcFrame *frame)
{
	char		text[1024] = "";
	uint32		n;

	settings.kind = get_string(frame);
	n = gc_frame_get_u32(frame);
	if (n > (uint32) (frame->end - frame->at))
		frame->bad = true;
	settings.options = pg_malloc0((frame->bad ? 1 : Max(n, 1)) * sizeof(GcSetting));
	for (uint32 i = 0; i < n && !frame->bad; i++)
	{
		settings.options[i].name = get_string(frame);
		settings.options[i].value = get_string(frame);
		settings.noptions++;
	}
	settings.memory = gc_frame_get_u64(frame);
	if (!gc_frame_end(frame))
		return;

	if (strcmp(settings.kind, gc_kafka_source.kind) == 0)
		source = &gc_kafka_source;
	else if (strcmp(settings.kind, gc_file_source.kind) == 0)
		source = &gc_file_source;
	gc_frame_begin(&gc_out, GC_FRAME_HELLO);
	gc_frame_put_u32(&gc_out, GC_PROTOCOL);
	gc_frame_put_string(&gc_out, gc_kafka_versions());
	gc_frame_finish(&gc_out);
	if (source == NULL)
		fail("unknown kind of server");
	share_out();
	gc_limit_memory(settings.memory);
	if (!source->start(&settings, text, sizeof(text)))
		fail(text);

	/* what may be secret is not needed any more */
	for (int i = 0; i < settings.noptions; i++)
	{
		explicit_bzero(settings.options[i].value, strlen(settings.options[i].value));
		pg_free(settings.options[i].name);
		pg_free(settings.options[i].value);
	}
	settings.noptions = 0;
	gc_probe_start(source);
}

static void
ask(GcFrame *frame)
{
	GcJob	   *job = pg_malloc0(sizeof(GcJob));
	const char *topic;
	size_t		len;
	uint32		timeout;

	job->kind = GC_JOB_QUERY;
	job->id = gc_frame_get_u32(frame);
	job->what = (GcQuery) gc_frame_get_u8(frame);
	timeout = gc_frame_get_u32(frame);	/* Min and Max take their arguments twice */
	job->deadline = gc_now() + Min(Max(timeout, 1), 600 * 1000);
	topic = gc_frame_get_text(frame, &len);
	if (topic != NULL && memchr(topic, '\0', len) != NULL)
		frame->bad = true;
	job->topic = topic ? pnstrdup(topic, len) : NULL;
	job->partition = (int32) gc_frame_get_u32(frame);
	job->number = (int64) gc_frame_get_u64(frame);
	if (!gc_frame_end(frame))
		gc_job_free(job);
	else
		gc_probe_ask(job);
}

static void stop(void) pg_attribute_noreturn();

static void
handle(GcFrame *frame)
{
	uint32		id;
	int32		partition;
	uint32		epoch;
	int64		number;
	GcPart	   *part;

	if ((source == NULL) != (frame->type == GC_FRAME_CONFIGURE))
		fail("protocol violation: CONFIGURE is the first frame, once");
	switch (frame->type)
	{
		case GC_FRAME_CONFIGURE:
			configure(frame);
			break;
		case GC_FRAME_SUBSCRIBE:
			subscribe(frame);
			break;
		case GC_FRAME_ASSIGN:
			id = gc_frame_get_u32(frame);
			partition = (int32) gc_frame_get_u32(frame);
			epoch = gc_frame_get_u32(frame);
			number = (int64) gc_frame_get_u64(frame);
			if (gc_frame_end(frame))
				assign(id, partition, epoch, number);
			break;
		case GC_FRAME_UNASSIGN:
			id = gc_frame_get_u32(frame);
			part = find_part(id, (int32) gc_frame_get_u32(frame));
			if (gc_frame_end(frame) && part != NULL)
				forget_part(part);
			break;
		case GC_FRAME_CREDIT:
			id = gc_frame_get_u32(frame);
			part = find_part(id, (int32) gc_frame_get_u32(frame));
			epoch = gc_frame_get_u32(frame);
			number = (int64) gc_frame_get_u64(frame);
			if (number < 0)
				frame->bad = true;
			if (gc_frame_end(frame) && part != NULL && part->epoch == epoch)
				part->credit = Min(part->credit, PG_INT64_MAX / 2) + Min(number, PG_INT64_MAX / 4);
			break;
		case GC_FRAME_COMMIT:
			id = gc_frame_get_u32(frame);
			part = find_part(id, (int32) gc_frame_get_u32(frame));
			number = (int64) gc_frame_get_u64(frame);
			if (gc_frame_end(frame) && part != NULL && number >= 0)
			{
				part->commit = number;
				commit_due = true;
			}
			break;
		case GC_FRAME_QUERY:
			ask(frame);
			break;
		case GC_FRAME_STOP:
			if (gc_frame_end(frame))
				stop();
			break;
		default:
			frame->bad = true;
	}
	if (!gc_frame_end(frame))
		fail("protocol violation: a frame of the server cannot be read");
}

static void
read_in(void)
{
	size_t		at = 0;
	ssize_t		n;
	GcFrame		frame;

	if (in_room - in_len < READ_AT_ONCE)
	{
		in_room = Max(in_room * 2, 2 * READ_AT_ONCE);
		in = pg_realloc(in, in_room);
	}
	n = recv(STDIN_FILENO, in + in_len, in_room - in_len, MSG_DONTWAIT);
	if (n == 0 || (n < 0 && errno != EINTR && errno != EAGAIN && errno != EWOULDBLOCK))
		lost();
	if (n < 0)
		return;
	in_len += (size_t) n;
	while ((n = gc_frame_next(in + at, in_len - at, &frame)) > 0)
	{
		handle(&frame);
		at += (size_t) n;
	}
	if (n < 0)
		fail("protocol violation: what the server sent is not a frame");
	if (at > 0)
	{
		/* no secret stays behind in what was CONFIGURE */
		explicit_bzero(in, at);
		memmove(in, in + at, in_len - at);
		in_len -= at;
	}
}

static void
collect_results(void)
{
	GcJob	   *job;

	while ((job = gc_probe_result()) != NULL)
	{
		GcFrame		frame;

		switch (job->kind)
		{
			case GC_JOB_QUERY:
				if (gc_frame_next(job->answer.data, job->answer.len, &frame) > 0)
					gc_frame_put_bytes(&gc_out, job->answer.data, job->answer.len);
				break;
			case GC_JOB_PING:
				ping_asked = false;
				ping_at = gc_now() + (job->state == GC_SERVER_UP ? PING_UP_MS : PING_MS);
				gc_loop_server(job->state, job->text);
				break;
			case GC_JOB_RANGE:
				tell_trouble(job->id, job->partition, job->epoch, job->trouble, job->number, job->low, job->high,
							 job->text);
				break;
		}
		gc_job_free(job);
	}
}

/* What has its time; returns ms until the next. */
static int
tick(void)
{
	int64		now = gc_now();
	int			wait = 1000;

	if (getppid() != parent)
		lost();
	for (GcPart *part = parts; part; part = part->next)
	{
		if (part->held_full_at != 0 && !part->paused && part->assigned)
			wait = Min(wait, 50);
		if (part->position <= part->told)
			continue;
		if (now - part->told_at >= TELL_MS)
			tell_position(part);
		else
			wait = Min(wait, (int) (part->told_at + TELL_MS - now));
	}
	if (commit_due)
	{
		if (now - commit_at >= COMMIT_MS)
		{
			commit_at = now;
			commit_due = !source->commit(parts);
		}
		else
			wait = Min(wait, (int) (commit_at + COMMIT_MS - now));
	}
	if (!ping_asked && now >= ping_at)
	{
		GcJob	   *job = pg_malloc0(sizeof(GcJob));

		ping_asked = true;
		job->kind = GC_JOB_PING;
		job->deadline = now + PING_TIMEOUT_MS;
		gc_probe_ask(job);
	}
	return Max(Min(wait, source->wait_ms()), 1);
}

static void
stop(void)
{
	if (commit_due)
		source->commit(parts);
	for (GcPart *part = parts; part; part = part->next)
		drop_held(part);
	source->stop();
	_exit(0);
}

int
gc_loop_run(void)
{
	parent = getppid();
	out_limit = 256 * 1024;
	for (;;)
	{
		struct pollfd fds[3] = {{STDIN_FILENO, POLLIN, 0}, {-1, POLLIN, 0}, {-1, POLLIN, 0}};
		int			wait = 1000;

		if (source != NULL)
		{
			bool		more;

			if (take_records(&more))
				fds[2].fd = source->wait_fd();
			wait = tick();
			if (more)
				wait = 0;
			fds[1].fd = gc_probe_fd();
		}
		write_out();
		if (gc_out.len > 0)
			fds[0].events |= POLLOUT;
		if (poll(fds, 3, wait) < 0 && errno != EINTR)
			fail("could not wait for events");
		if (fds[0].revents & (POLLIN | POLLHUP | POLLERR))
			read_in();
		if (fds[1].revents)
			collect_results();
	}
}
