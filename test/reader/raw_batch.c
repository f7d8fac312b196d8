/*
 * raw_batch.c: record batches that no producer makes, put into the mock cluster by hand: with gaps, a
 * wrong checksum, control records, or a body that unpacks to a thousand times its size.
 */
#include "postgres_fe.h"

#include "tests.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>
#include <zlib.h>

#include "port/pg_crc32c.h"

typedef struct Bytes
{
	char	   *data;
	size_t		len;
	size_t		room;
} Bytes;

static void
put(Bytes *bytes, const void *data, size_t len)
{
	if (bytes->room - bytes->len < len)
	{
		bytes->room = (bytes->room + len) * 2;
		bytes->data = pg_realloc(bytes->data, bytes->room);
	}
	memcpy(bytes->data + bytes->len, data, len);
	bytes->len += len;
}

/* Big-endian, size bytes of it. */
static void
put_int(Bytes *bytes, int64 value, int size)
{
	for (int i = size - 1; i >= 0; i--)
	{
		char		byte = (char) (value >> (8 * i));

		put(bytes, &byte, 1);
	}
}

static void
put_varint(Bytes *bytes, int64 value)
{
	uint64		rest = ((uint64) value << 1) ^ (uint64) (value >> 63);

	do
	{
		char		byte = (char) ((rest & 0x7f) | (rest > 0x7f ? 0x80 : 0));

		put(bytes, &byte, 1);
		rest >>= 7;
	} while (rest);
}

static void
put_string(Bytes *bytes, const char *text)
{
	put_int(bytes, (int64) strlen(text), 2);
	put(bytes, text, strlen(text));
}

/* zeroes: so many bytes of zero as value instead of the text */
static void
put_record(Bytes *bytes, int delta, const char *key, size_t key_len, const char *value, size_t zeroes)
{
	Bytes		record = {0};

	put_int(&record, 0, 1);
	put_varint(&record, 0);
	put_varint(&record, delta);
	put_varint(&record, (int64) key_len);
	put(&record, key, key_len);
	put_varint(&record, (int64) (zeroes ? zeroes : strlen(value)));
	if (!zeroes)
		put(&record, value, strlen(value));
	put_varint(bytes, (int64) (record.len + zeroes + 1));
	put(bytes, record.data, record.len);
	if (zeroes)
	{
		char	   *block = pg_malloc0(zeroes);

		put(bytes, block, zeroes);
		free(block);
	}
	put_varint(bytes, 0);
	free(record.data);
}

static void
gzip(Bytes *bytes)
{
	z_stream	stream = {0};
	Bytes		packed = {0};

	deflateInit2(&stream, 9, Z_DEFLATED, 15 + 16, 9, Z_DEFAULT_STRATEGY);
	packed.room = bytes->len / 100 + 1024 * 1024;
	packed.data = pg_malloc(packed.room);
	stream.next_in = (Bytef *) bytes->data;
	stream.avail_in = (uInt) bytes->len;
	stream.next_out = (Bytef *) packed.data;
	stream.avail_out = (uInt) packed.room;
	deflate(&stream, Z_FINISH);
	packed.len = stream.total_out;
	deflateEnd(&stream);
	free(bytes->data);
	*bytes = packed;
}

void
produce_batch(const char *topic, const RawBatch *raw)
{
	Bytes		records = {0};
	Bytes		checked = {0};
	Bytes		batch = {0};
	Bytes		request = {0};
	uint32		size;
	pg_crc32c	crc;
	struct sockaddr_in address = {.sin_family = AF_INET};
	const char *port = strchr(rd_kafka_mock_cluster_bootstraps(cluster()), ':') + 1;
	int			fd;
	char		answer[64];

	for (int i = 0; i < raw->count; i++)
		if (raw->control)
			put_record(&records, 0, "\0\0\0\1", 4, NULL, 6);	/* commit; its value is a version and a number */
		else
			put_record(&records, raw->deltas[i], "a", 1, raw->value, raw->zeroes);
	if (raw->garbage)
		memset(records.data, 0xff, records.len);
	if (raw->zeroes)
		gzip(&records);

	put_int(&checked, (raw->zeroes ? 1 : 0) | (raw->control ? 0x30 : 0), 2);
	put_int(&checked, raw->last_delta, 4);
	put_int(&checked, INT64CONST(1767225600000), 8);
	put_int(&checked, INT64CONST(1767225600000), 8);
	put_int(&checked, raw->control ? 4711 : -1, 8);
	put_int(&checked, raw->control ? 0 : -1, 2);
	put_int(&checked, -1, 4);
	put_int(&checked, raw->count, 4);
	put(&checked, records.data, records.len);
	INIT_CRC32C(crc);
	COMP_CRC32C(crc, checked.data, checked.len);
	FIN_CRC32C(crc);

	put_int(&batch, 0, 8);
	put_int(&batch, (int64) checked.len + 9, 4);
	put_int(&batch, 0, 4);
	put_int(&batch, 2, 1);
	put_int(&batch, raw->bad_crc ? ~crc : crc, 4);
	put(&batch, checked.data, checked.len);

	/* Produce, version 3 */
	put_int(&request, 0, 2);
	put_int(&request, 3, 2);
	put_int(&request, 1, 4);
	put_string(&request, "raw");
	put_int(&request, -1, 2);
	put_int(&request, -1, 2);
	put_int(&request, 5000, 4);
	put_int(&request, 1, 4);
	put_string(&request, topic);
	put_int(&request, 1, 4);
	put_int(&request, 0, 4);
	put_int(&request, (int64) batch.len, 4);
	put(&request, batch.data, batch.len);

	/* to the first broker, which leads partition 0 of the tests' topics */
	address.sin_port = htons((uint16) atoi(port));
	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	size = htonl((uint32) request.len);
	if (connect(fd, (struct sockaddr *) &address, sizeof(address)) != 0 ||
		write(fd, &size, 4) != 4 || write(fd, request.data, request.len) != (ssize_t) request.len ||
		read(fd, answer, sizeof(answer)) < 20 ||
		answer[4 + 4 + 4 + 2 + strlen(topic) + 4 + 4] != 0 || answer[4 + 4 + 4 + 2 + strlen(topic) + 4 + 4 + 1] != 0)
		check(false, "a batch is produced by hand", __LINE__);
	close(fd);
	free(records.data);
	free(checked.data);
	free(batch.data);
	free(request.data);
}
