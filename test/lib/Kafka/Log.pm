# The files of a partition: what a disk, an administrator or an unclean election does to them. For a broker
# that is stopped, which finds them changed when it is back.
#
#	my $log = Kafka::Log->new($kafka, 'orders', 0);
#	$kafka->stop;
#	$log->flip_crc(7);						# the batch that holds offset 7 has another checksum
#	$log->spoil(9);							# that batch holds records that are none; its checksum is right
#	$log->cut(12);							# it ends before the batch that holds offset 12
#	$log->append([ [ 0, 'k', 'v' ], [ 3, 'k', 'w' ] ], last => 9, time => -1);	# a batch of two records and eight gaps
#	$log->bomb('gzip', 200_000_000);		# one more record, of so many bytes when it is unpacked
#	$kafka->restart;
#
# A batch is 61 bytes of head and its records: base offset (8 bytes), length of what follows (4), leader's
# epoch (4), 2, CRC-32C of what follows (4), attributes (2), last offset - base (4), ...
package Kafka::Log;

use strict;
use warnings;

use Carp;
use IO::Compress::Gzip;

sub new
{
	my ($class, $kafka, $topic, $partition) = @_;
	return bless { dir => $kafka->dir . "/data/$topic-$partition" }, $class;
}

# [file, place in it, base offset, last offset, bytes] of every batch.
sub batches
{
	my ($self) = @_;
	my @batches;
	for my $file (sort(glob "$self->{dir}/*.log"))
	{
		my $bytes = _read($file);
		for (my $at = 0; $at + 61 <= length $bytes;)
		{
			my ($base, $length, $last) = unpack 'q>N x11 N', substr $bytes, $at, 27;
			last if $length == 0;    # a file may be longer than what is in it
			push @batches, [ $file, $at, $base, $base + $last, 12 + $length ];
			$at += 12 + $length;
		}
	}
	return @batches;
}

sub _read { my ($file) = @_; open my $in, '<:raw', $file or croak "$file: $!"; local $/; return <$in> // '' }

sub _batch
{
	my ($self, $offset) = @_;
	my ($batch) = grep { $_->[2] <= $offset && $offset <= $_->[3] } $self->batches;
	return $batch // croak "no batch of $self->{dir} holds offset $offset";
}

sub _change
{
	my ($self, $offset, $change) = @_;
	my ($file, $at, undef, undef, $length) = @{ $self->_batch($offset) };
	open my $out, '+<:raw', $file or croak "$file: $!";
	seek $out, $at, 0;
	my $bytes;
	read $out, $bytes, $length;
	$bytes = $change->($bytes);
	seek $out, $at, 0;
	print {$out} $bytes;
	close $out or croak "$file: $!";
}

sub flip_crc { my ($self, $offset) = @_; $self->_change($offset, sub { my ($b) = @_; substr($b, 17, 4) ^= "\xff\xff\xff\xff"; return $b }) }

sub spoil
{
	my ($self, $offset) = @_;
	$self->_change($offset, sub {
		my ($b) = @_;
		substr($b, 61) = "\xff" x (length($b) - 61);
		substr($b, 17, 4) = pack 'N', _crc32c(substr $b, 21);
		return $b;
	});
}

# Nothing is left from that batch on, as after an election of a leader that had not got so far.
sub cut
{
	my ($self, $offset) = @_;
	my ($file, $at) = @{ $self->_batch($offset) };
	truncate $file, $at or croak "$file: $!";
	unlink grep { /\.log$/ && $_ gt $file } glob "$self->{dir}/*";
	unlink glob("$self->{dir}/*index"), glob("$self->{dir}/*.snapshot");    # the broker makes them again
}

# One record of zeroes, packed by hand: producers make no such thing without having it in memory.
my %pack = (
	gzip => [ 1, sub {
		my ($head, $n) = @_;
		my $packed;
		my $z = IO::Compress::Gzip->new(\$packed) or croak 'gzip';
		$z->print($head);
		$z->print("\0" x ($n / 1000)) for 1 .. 1000;
		$z->close;
		return $packed;
	} ],
	snappy => [ 2, sub {
		my ($head, $n) = @_;
		return _varint(length($head) + $n, 1) . pack('C', length($head) - 1 << 2) . $head . pack('C', 0) . "\0"
		  . pack('Cv', 62 << 2 | 2, 1) . pack('Cv', 63 << 2 | 2, 1) x ($n / 64 - 1);
	} ],
	lz4 => [ 3, sub {
		my ($head, $n) = @_;
		my $block = sub {
			my ($first, $length) = @_;
			my $match = $length - 6 - 4 - 15;    # a zero, and five more literals at the end
			my $literals = length($first) + 1;
			my $body = pack('C', $literals << 4 | 15) . $first . "\0" . pack('v', 1) . "\xff" x ($match / 255) . pack('C', $match % 255) . pack('C', 5 << 4) . "\0" x 5;
			return pack('V', length $body) . $body;
		};
		my $blocks = $block->($head, 1_000_000);
		$blocks .= $block->('', 1_000_000) x ($n / 1_000_000 - 1);
		return "\x04\x22\x4d\x18\x60\x70\x73" . $blocks . pack 'V', 0;
	} ],
	zstd => [ 4, sub {
		my ($head, $n) = @_;
		my $block = sub { my ($last, $type, $size) = @_; return substr pack('V', $last | $type << 1 | $size << 3), 0, 3 };
		return "\x28\xb5\x2f\xfd\xe0" . pack('Q<', length($head) + $n) . $block->(0, 0, length $head) . $head
		  . ($block->(0, 1, 100_000) . "\0") x ($n / 100_000 - 1) . $block->(1, 1, 100_000) . "\0";
	} ]);

sub _varint
{
	my ($n, $plain) = @_;
	my $bytes = '';
	$n <<= 1 unless $plain;
	do { $bytes .= pack 'C', $n & 127 | ($n > 127 ? 128 : 0); $n >>= 7 } while $n;
	return $bytes;
}

# [offset in the batch, key, value]; last: of the batch; time: of all, in milliseconds.
sub append
{
	my ($self, $records, %option) = @_;
	my $body = '';
	for (@$records)
	{
		my ($delta, $key, $value) = @$_;
		my $record = "\0" . _varint(0) . _varint($delta) . _varint(length $key) . $key . _varint(length $value) . $value . _varint(0);
		$body .= _varint(length $record) . $record;
	}
	return $self->_append(0, $option{last} // $records->[-1][0], $option{time} // 1767225600000, scalar @$records, $body);
}

# The bytes are whole millions that 64 divides.
sub bomb
{
	my ($self, $codec, $bytes) = @_;
	my $record = "\0\0\0" . "\1" . _varint($bytes - 1);    # attributes, time, offset, no key; the last zero is the number of headers
	my ($number, $pack) = @{ $pack{$codec} };
	return $self->_append($number, 0, 1767225600000, 1, $pack->(_varint(length($record) + $bytes) . $record, $bytes));
}

sub _append
{
	my ($self, $codec, $delta, $time, $count, $records) = @_;
	my ($file, $at, undef, $last, $length) = @{ ($self->batches)[-1] };
	my $checked = pack('n N q> q> q> n N N', $codec, $delta, $time, $time, -1, 0xffff, 0xffffffff, $count) . $records;
	open my $out, '+<:raw', $file or croak "$file: $!";
	truncate $out, $at + $length or croak "$file: $!";
	seek $out, $at + $length, 0;
	print {$out} pack('q> N N C N', $last + 1, 9 + length $checked, 0, 2, _crc32c($checked)), $checked;
	close $out or croak "$file: $!";
}

my @table = map { my $c = $_; $c = $c & 1 ? $c >> 1 ^ 0x82f63b78 : $c >> 1 for 1 .. 8; $c } 0 .. 255;

sub _crc32c
{
	my $crc = 0xffffffff;
	$crc = $crc >> 8 ^ $table[ ($crc ^ $_) & 255 ] for unpack 'C*', $_[0];
	return $crc ^ 0xffffffff;
}

1;
