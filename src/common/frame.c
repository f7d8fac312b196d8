/*
 * frame.c: builds and reads the frames of frame.h.
 *
 * Called by the reader program and by the server's side of it. Memory comes, inside the server, from
 * the context that was current when a buffer was first appended to, and stays there; a failed
 * allocation is an ERROR there and ends the program outside. Reading allocates nothing and never fails:
 * what does not fit makes a frame bad.
 */
#include "common.h"
#include "fault_point.h"
#include "frame.h"

#ifndef FRONTEND
#include "utils/memutils.h"
#endif

#define ROOM_FIRST	8192
#define ROOM_KEEP	(1024 * 1024)	/* what one huge record needed is given back */

static void
reserve(GcFrameBuffer *buffer, size_t count)
{
	size_t		room = Max(buffer->room, ROOM_FIRST);

	if (buffer->room - buffer->len >= count)
		return;
	while (room - buffer->len < count)
		room *= 2;
#ifdef FRONTEND
	buffer->data = pg_realloc(buffer->data, room);
#else
	if (buffer->data == NULL)
		buffer->data = MemoryContextAllocHuge(CurrentMemoryContext, room);
	else
		buffer->data = repalloc_huge(buffer->data, room);
#endif
	buffer->room = room;
}

static void
append(GcFrameBuffer *buffer, const void *bytes, size_t count)
{
	reserve(buffer, count);
	memcpy(buffer->data + buffer->len, bytes, count);
	buffer->len += count;
}

void
gc_frame_begin(GcFrameBuffer *buffer, GcFrameType type)
{
	uint32		later = 0;

	buffer->start = buffer->len;
	append(buffer, &later, sizeof(later));
	gc_frame_put_u8(buffer, (uint8) type);
}

void
gc_frame_put_u8(GcFrameBuffer *buffer, uint8 value)
{
	append(buffer, &value, sizeof(value));
}

void
gc_frame_put_u32(GcFrameBuffer *buffer, uint32 value)
{
	append(buffer, &value, sizeof(value));
}

void
gc_frame_put_u64(GcFrameBuffer *buffer, uint64 value)
{
	append(buffer, &value, sizeof(value));
}

void
gc_frame_put_text(GcFrameBuffer *buffer, const char *text, size_t len)
{
	if (text == NULL)
	{
		gc_frame_put_u32(buffer, GC_FRAME_NULL);
		return;
	}
	Assert(len < GC_FRAME_NULL);
	reserve(buffer, sizeof(uint32) + len);
	gc_frame_put_u32(buffer, (uint32) len);
	append(buffer, text, len);
}

void
gc_frame_put_string(GcFrameBuffer *buffer, const char *string)
{
	gc_frame_put_text(buffer, string, string ? strlen(string) : 0);
}

void
gc_frame_put_bytes(GcFrameBuffer *buffer, const char *bytes, size_t len)
{
	append(buffer, bytes, len);
	buffer->start = buffer->len;
}

/* Who makes a frame of somebody else's bytes sees to it that it stays below GC_FRAME_MAX. */
void
gc_frame_finish(GcFrameBuffer *buffer)
{
	size_t		len = buffer->len - buffer->start - sizeof(uint32);
	uint32		head = (uint32) len;

	Assert(len <= GC_FRAME_MAX);
	memcpy(buffer->data + buffer->start, &head, sizeof(head));
	gc_fault_frame(buffer->data[buffer->start + sizeof(head)], "made");
	buffer->start = buffer->len;
}

void
gc_frame_consume(GcFrameBuffer *buffer, size_t count)
{
	Assert(count <= buffer->start);
	buffer->len -= count;
	buffer->start -= count;
	if (buffer->len > 0)
		memmove(buffer->data, buffer->data + count, buffer->len);
	else if (buffer->room > ROOM_KEEP)
	{
		/* shrunk and not freed, so that it stays in its context */
#ifdef FRONTEND
		buffer->data = pg_realloc(buffer->data, ROOM_FIRST);
#else
		buffer->data = repalloc_huge(buffer->data, ROOM_FIRST);
#endif
		buffer->room = ROOM_FIRST;
	}
}

void
gc_frame_free(GcFrameBuffer *buffer)
{
	if (buffer->data)
		pfree(buffer->data);
	memset(buffer, 0, sizeof(*buffer));
}

ssize_t
gc_frame_next(const char *bytes, size_t len, GcFrame *frame)
{
	uint32		size;

	if (len < sizeof(size))
		return 0;
	memcpy(&size, bytes, sizeof(size));
	if (size == 0 || size > GC_FRAME_MAX)
		return -1;
	if (len - sizeof(size) < size)
		return 0;
	frame->type = (GcFrameType) (uint8) bytes[sizeof(size)];
	frame->at = bytes + GC_FRAME_HEAD;
	frame->end = bytes + sizeof(size) + size;
	frame->bad = false;
	gc_fault_frame(frame->type, "taken");
	return (ssize_t) (sizeof(size) + size);
}

/* Takes count bytes out of the frame, or makes it bad and gives zeroes. */
static void
take(GcFrame *frame, void *to, size_t count)
{
	if (frame->bad || frame->end - frame->at < count)
	{
		frame->bad = true;
		memset(to, 0, count);
		return;
	}
	memcpy(to, frame->at, count);
	frame->at += count;
}

uint8
gc_frame_get_u8(GcFrame *frame)
{
	uint8		value;

	take(frame, &value, sizeof(value));
	return value;
}

uint32
gc_frame_get_u32(GcFrame *frame)
{
	uint32		value;

	take(frame, &value, sizeof(value));
	return value;
}

uint64
gc_frame_get_u64(GcFrame *frame)
{
	uint64		value;

	take(frame, &value, sizeof(value));
	return value;
}

const char *
gc_frame_get_text(GcFrame *frame, size_t *len)
{
	uint32		size = gc_frame_get_u32(frame);
	const char *text = frame->at;

	*len = 0;
	if (frame->bad || size == GC_FRAME_NULL)
		return NULL;
	if (frame->end - frame->at < size)
	{
		frame->bad = true;
		return NULL;
	}
	frame->at += size;
	*len = size;
	return text;
}

bool
gc_frame_end(const GcFrame *frame)
{
	return !frame->bad && frame->at == frame->end;
}
