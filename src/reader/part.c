/*
 * part.c: partitions: what is read of them, what is sent, what waits.
 *
 * Called by the loop for the server's frames and at each round, and by the sources for what they meet.
 *
 * Credit. A partition without any keeps what was taken for it (held). When that becomes too much, the loop
 * first stops taking at all for a moment: mostly the server is about to commit, and pausing makes the
 * library throw away what it has fetched. Only then, and if there is a neighbour that may go on, the partition is paused.
 *
 * Order. What is told of a partition, its end and its trouble, waits until all records before it have been
 * sent, so that the server has everything that could be read.
 */
#include "reader.h"

#define TAKE_AT_ONCE		1000	/* records before the server's frames are looked at again */
#define TELL_MS				1000	/* a position, when records go by */
#define HOLD_MS				200 /* for which a full partition stops its neighbours */
#define RANGE_TIMEOUT_MS	10000
#define CHECK_TIMEOUT_MS	2000
#define DOUBT_MS			3000	/* of silence */
#define DOUBT_AGAIN_MS		1000
#define NUDGE_MS			15	/* of silence */
#define NUDGE_TIMEOUT_MS	200
#define RESTS_MS			1000	/* then it has looked by itself */
#define RETRIES				3
#define DOUBTS				3
#define COMMIT_MS			500

static GcSubscription *subscriptions;
static GcPart *parts;
static int	nparts;				/* active */
static size_t hold_limit;
static uint64 memory;
static const GcSource *source;
static bool commit_due;
static int64 commit_at;
static int	nchecks;			/* on their way */
static bool nudging;			/* one is on its way */

static void begin_reading(GcPart *part);

static GcSubscription *
find_subscription(uint32 id)
{
	for (GcSubscription *subscription = subscriptions; subscription; subscription = subscription->next)
		if (subscription->id == id)
			return subscription;
	return NULL;
}

GcPart *
gc_part_find(uint32 subscription, int32 partition)
{
	for (GcPart *part = parts; part; part = part->next)
		if (part->partition == partition && part->subscription->id == subscription)
			return part;
	return NULL;
}

static void
tell_position(GcPart *part)
{
	bool		at_end = part->end_at >= 0 && part->position >= part->end_at;
	int64		end = source->end(part);
	bool		open = source->transactions && at_end && end > part->end_at;

	if (at_end && !open)
		end = part->end_at;

	gc_frame_begin(&gc_out, GC_FRAME_POSITION);
	gc_frame_put_u32(&gc_out, part->subscription->id);
	gc_frame_put_u32(&gc_out, (uint32) part->partition);
	gc_frame_put_u32(&gc_out, part->epoch);
	gc_frame_put_u64(&gc_out, (uint64) part->position);
	gc_frame_put_u64(&gc_out, (uint64) (end < 0 ? -1 : Max(end, part->position)));
	gc_frame_put_u8(&gc_out, (at_end ? GC_POSITION_END : 0) | (open ? GC_POSITION_OPEN : 0));
	gc_frame_finish(&gc_out);
	part->open_told = open;
	part->told = part->position;
	part->told_at = gc_now();
	part->end_told = at_end;
}

static void
tell_trouble(const GcPart *part, GcTrouble trouble, int64 offset, int64 low, int64 high, const char *text)
{
	gc_frame_begin(&gc_out, GC_FRAME_TROUBLE);
	gc_frame_put_u32(&gc_out, part->subscription->id);
	gc_frame_put_u32(&gc_out, (uint32) part->partition);
	gc_frame_put_u32(&gc_out, part->epoch);
	gc_frame_put_u8(&gc_out, (uint8) trouble);
	gc_frame_put_u64(&gc_out, (uint64) offset);
	gc_frame_put_u64(&gc_out, (uint64) low);
	gc_frame_put_u64(&gc_out, (uint64) high);
	gc_frame_put_string(&gc_out, text);
	gc_frame_finish(&gc_out);
}

/* A job of the probe's about a partition as it is now. */
static GcJob *
job_about(const GcPart *part, GcJobKind kind, int timeout_ms)
{
	GcJob	   *job = pg_malloc0(sizeof(GcJob));

	job->kind = kind;
	job->id = part->subscription->id;
	job->topic = pg_strdup(part->subscription->topic);
	job->partition = part->partition;
	job->epoch = part->epoch;
	job->number = part->taken;
	job->low = job->high = -1;
	job->deadline = gc_now() + timeout_ms;
	return job;
}

/* Which it is, unless it has been assigned anew since. */
static GcPart *
part_of(const GcJob *job)
{
	GcPart	   *part = gc_part_find(job->id, job->partition);

	return part != NULL && part->epoch == job->epoch ? part : NULL;
}

/*
 * Low and high of a partition whose offset is said to be out of range. The library has been seen to say so of an
 * offset that it made up, behind a batch that it could not read, and even after the next assignment:
 * what is in the range is read again.
 */
void
gc_part_ranged(GcJob *job)
{
	GcPart	   *part = part_of(job);

	if (part == NULL)
		return;
	if (job->low >= 0 && job->low <= part->taken && part->taken <= job->high && !part->truncated &&
		part->retries++ < RETRIES)
	{
		part->active = true;
		part->trouble = GC_TROUBLE_NONE;
		part->heard_at = gc_now();
		nparts++;
		begin_reading(part);
	}
	else
		tell_trouble(part, part->trouble, part->taken, job->low, job->high, part->trouble_text);
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
			gc_probe_ask(job_about(part, GC_JOB_RANGE, RANGE_TIMEOUT_MS));
		else
			tell_trouble(part, part->trouble, part->trouble_at, -1, -1, part->trouble_text);
	}
}

/* All before offset has been taken, and there is no more now. */
void
gc_part_end(GcPart *part, int64 offset)
{
	if (!part->active)
		return;
	part->taken = Max(part->taken, offset);
	part->end_at = part->taken;
	part->heard_at = gc_now();
	part->doubts = 0;
	part->trouble = GC_TROUBLE_NONE;
	settle(part);
}

/* One handle cannot read a partition twice: a second subscription waits until the first has done. */
static void
begin_reading(GcPart *part)
{
	for (GcPart *other = parts; other; other = other->next)
		if (other->assigned && other->partition == part->partition &&
			strcmp(other->subscription->topic, part->subscription->topic) == 0)
		{
			gc_part_trouble(part, GC_TROUBLE_TRANSIENT, part->taken, "partition is being read by another subscription");
			return;
		}
	source->assign(part);
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
gc_part_trouble(GcPart *part, GcTrouble trouble, int64 offset, const char *text)
{
	if (!part->active)
		return;
	if (trouble == GC_TROUBLE_TRANSIENT)
	{
		if (part->trouble != trouble)
			tell_trouble(part, trouble, offset, -1, -1, text);
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
 * Some faults raise no event: a batch with a malformed record is fetched again and again, a response that is
 * too large breaks the connection without a word about the partition, an assignment to a topic that may not be read
 * waits. So a partition of which nothing is heard, though its end has not been met, is asked for one
 * record beside the handle that reads; what the probe meets there is this partition's trouble.
 */
static void
doubt(GcPart *part)
{
	part->checking = true;
	nchecks++;
	gc_probe_ask(job_about(part, GC_JOB_CHECK, CHECK_TIMEOUT_MS));
}

/* Should it be read, and could there be something? */
static bool
is_waiting(const GcPart *part)
{
	return part->active && part->assigned && !part->paused && !part->checking && part->held == NULL &&
		part->end_at < 0;
}

/* Something is wrong with some partition, and nobody says with which. */
void
gc_parts_doubt(void)
{
	for (GcPart *part = parts; part; part = part->next)
	{
		/* it may have come behind what was the end */
		if (part->held == NULL)
			part->end_at = -1;
		if (is_waiting(part))
			doubt(part);
	}
}

void
gc_part_checked(GcJob *job)
{
	GcPart	   *part = part_of(job);
	char		text[256];

	nchecks--;
	if (part == NULL)
		return;
	part->checking = false;
	part->heard_at = gc_now();
	if (!is_waiting(part) || part->taken != job->number)
	{
		part->doubts = 0;		/* it goes on */
		return;
	}
	if (job->trouble == GC_TROUBLE_NONE && job->rows == 0)
	{
		part->doubts = 0;
		if (part->end_told)
			part->end_at = part->taken;
	}
	else if (job->trouble == GC_TROUBLE_NONE && ++part->doubts >= DOUBTS)
	{
		/* the probe can, the other handle does not: begin anew there */
		part->doubts = 0;
		snprintf(text, sizeof(text), "partition %d of topic \"%.100s\" does not go on, it is assigned again",
				 part->partition, part->subscription->topic);
		gc_loop_log(4, text);
		source->unassign(part);
		source->assign(part);
	}
	else if (job->trouble == GC_TROUBLE_TRANSIENT && job->high > job->number)
	{
		if (++part->doubts < DOUBTS)
			return;
		snprintf(text, sizeof(text), "no record can be read here, though the partition goes on to offset %lld",
				 (long long) job->high);
		gc_part_trouble(part, GC_TROUBLE_UNREADABLE, job->number, text);
	}
	else if (job->trouble != GC_TROUBLE_NONE)
		gc_part_trouble(part, job->trouble, job->number, job->text);
}

/*
 * Records
 */

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
	{
		drop_held(part);		/* it lies behind */
		gc_part_trouble(part, GC_TROUBLE_TOO_LARGE, taken->offset, "record is larger than a frame can be");
	}
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
	while (part->held != NULL && part->credit > 0 && !gc_out_full())
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
		part->heard_at = gc_now();
		source->pause(part, false);
	}
}

/* May anything be sent of any partition, if it came? */
static bool
any_credit(void)
{
	for (GcPart *part = parts; part; part = part->next)
		if (part->assigned && part->credit > 0)
			return true;
	return false;
}

/* True while a partition is full and its neighbours have to wait for it, or could not be sent anything either. */
static bool
blocked(void)
{
	bool		wait = false;
	bool		neighbours = any_credit();

	for (GcPart *part = parts; part; part = part->next)
	{
		if (part->held_full_at == 0 || part->paused || !part->assigned)
			continue;
		if (gc_now() - part->held_full_at < HOLD_MS || !neighbours)
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
bool
gc_parts_take(bool *more)
{
	GcTaken		taken;
	int64		now = gc_now();

	*more = false;

	for (GcPart *part = parts; part; part = part->next)
		if (part->credit > 0)
			deliver_held(part);
	if (blocked())
		return false;
	for (int i = 0; i < TAKE_AT_ONCE; i++)
	{
		if (gc_out_full())
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
		taken.part->heard_at = now;
		taken.part->doubts = taken.part->retries = 0;
		taken.part->end_at = -1;
		taken.part->end_told = false;
		taken.part->trouble = GC_TROUBLE_NONE;
		if (taken.part->held == NULL && taken.part->credit > 0)
			deliver(&taken);
		else
		{
			hold(&taken);
			if (taken.part->held_full_at != 0 && blocked())
				return false;
		}
	}
	*more = true;
	return true;
}

static void
share_out(void)
{
	hold_limit = Min(Max((size_t) memory / 16 / Max(nparts, 1), 64 * 1024), 1024 * 1024);
}

void
gc_part_forget(GcPart *gone)
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

void
gc_parts_assign(uint32 id, int32 partition, uint32 epoch, int64 offset)
{
	GcSubscription *subscription = find_subscription(id);
	GcPart	   *part = gc_part_find(id, partition);

	if (subscription == NULL || partition < 0 || offset < 0)
		gc_loop_fail("protocol violation: ASSIGN of something that is not there");
	if (part != NULL)
		gc_part_forget(part);
	part = pg_malloc0(sizeof(GcPart));
	part->subscription = subscription;
	part->partition = partition;
	part->epoch = epoch;
	part->active = true;
	part->taken = part->position = part->told = offset;
	part->told_at = part->heard_at = gc_now();
	part->end_at = part->nudged = -1;
	part->commit = -1;
	part->held_tail = &part->held;
	part->next = parts;
	parts = part;
	nparts++;
	share_out();

	begin_reading(part);
}

void
gc_parts_subscribe(GcFrame *frame)
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
			gc_loop_fail("protocol violation: SUBSCRIBE to another topic by the same number");
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
				gc_part_forget(part);
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

/* The group's offset in a partition, for lag tools. */
void
gc_part_commit(GcPart *part, int64 offset)
{
	part->commit = offset;
	commit_due = true;
}

/*
 * A library that has fetched as much as it may rests for a second before it looks again, and what it had may be gone
 * in half of that. So when nothing comes of a partition that has more, its broker is asked something: the answer makes it look.
 * One at a time; returns ms until there may be something to do.
 */
static int
nudge(GcPart *part, int64 now)
{
	int64		silent = now - part->heard_at;

	if (nudging || part->nudged == part->taken || silent >= RESTS_MS || !is_waiting(part) || gc_out_full() || !gc_loop_is_up())
		return RESTS_MS;
	if (silent < NUDGE_MS)
		return (int) (NUDGE_MS - silent);
	part->nudged = part->taken;
	nudging = true;
	gc_probe_ask(job_about(part, GC_JOB_NUDGE, NUDGE_TIMEOUT_MS));
	return RESTS_MS;
}

void
gc_part_nudged(void)
{
	nudging = false;
}

/* What has its time; returns ms until the next. */
int
gc_parts_tick(void)
{
	int64		now = gc_now();
	int			wait = 1000;
	bool		rests = source->rests != NULL && source->rests();

	for (GcPart *part = parts; part; part = part->next)
	{
		if (part->held_full_at != 0 && !part->paused && part->assigned)
			wait = Min(wait, 50);

		if (rests)
			wait = Min(wait, nudge(part, now));

		/* one at a time, and not when it is the server that is silent: the probe has other things to do */
		if (now - part->heard_at >= (part->doubts ? DOUBT_AGAIN_MS : DOUBT_MS) && nchecks == 0 &&
			gc_loop_is_up() && !gc_out_full() && is_waiting(part))
			doubt(part);
		/* at the end, but not at the partition's: somebody's transaction is open, or was */
		if (source->transactions && part->end_told && part->active && part->position <= part->told && now - part->told_at >= TELL_MS &&
			(source->end(part) > part->end_at) != part->open_told)
			tell_position(part);
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
	return wait;
}

void
gc_parts_start(const GcSource *of, uint64 all_memory)
{
	source = of;
	memory = all_memory ? Min(all_memory, (uint64) 1 << 30) : 64 * 1024 * 1024;
	share_out();
}

void
gc_parts_stop(void)
{
	if (commit_due)
		source->commit(parts);
	for (GcPart *part = parts; part; part = part->next)
		drop_held(part);
}
