# Kafka's protocol, the administrator's part: one request, one answer, by a plain
# socket. Java's tools do the same in a second each; librdkafka's API for it differs
# from version to version. Only what Kafka.pm needs, in versions of the requests
# that brokers from 2.4 to 4.2 know.
#
# Every function dies with the broker's error code; %error has names for those that
# tests meet. Integers are big endian; a string is a length (-1: null) and bytes.
package Kafka::Wire;

use strict;
use warnings;

use Carp;
use IO::Select;
use IO::Socket::INET;

our %error = (
	1 => 'OFFSET_OUT_OF_RANGE',
	3 => 'UNKNOWN_TOPIC_OR_PARTITION',
	5 => 'LEADER_NOT_AVAILABLE',
	6 => 'NOT_LEADER_OR_FOLLOWER',
	7 => 'REQUEST_TIMED_OUT',
	14 => 'COORDINATOR_LOAD_IN_PROGRESS',
	15 => 'COORDINATOR_NOT_AVAILABLE',
	16 => 'NOT_COORDINATOR',
	17 => 'INVALID_TOPIC_EXCEPTION',
	29 => 'TOPIC_AUTHORIZATION_FAILED',
	35 => 'UNSUPPORTED_VERSION',
	36 => 'TOPIC_ALREADY_EXISTS',
	37 => 'INVALID_PARTITIONS',
	38 => 'INVALID_REPLICATION_FACTOR',
	40 => 'INVALID_CONFIG',
	41 => 'NOT_CONTROLLER',
	42 => 'INVALID_REQUEST',
	44 => 'POLICY_VIOLATION',
	54 => 'SECURITY_DISABLED',
	80 => 'PREFERRED_LEADER_NOT_AVAILABLE',
	84 => 'ELECTION_NOT_NEEDED');

sub string { my ($s) = @_; return defined $s ? pack('n/a*', $s) : pack('n', 0xffff) }
sub array { return pack('N', scalar @_) . join '', @_ }

# --- reading an answer, from the front of $$in

sub int8 { my ($in) = @_; return unpack 'c', substr $$in, 0, 1, '' }
sub int16 { my ($in) = @_; return unpack 's>', substr $$in, 0, 2, '' }
sub int32 { my ($in) = @_; return unpack 'l>', substr $$in, 0, 4, '' }
sub int64 { my ($in) = @_; return unpack 'q>', substr $$in, 0, 8, '' }
sub get_string { my ($in) = @_; my $n = int16($in); return $n < 0 ? undef : substr $$in, 0, $n, '' }

sub get_array
{
	my ($in, $element) = @_;
	return map { $element->($in) } 1 .. int32($in);
}

sub check
{
	my ($code, $what, $message) = @_;
	return if $code == 0;
	croak "$what: error $code" . ($error{$code} ? " $error{$code}" : '') . (defined $message ? ": $message" : '');
}

# One request to a broker: its number and version, the body. Returns the body of the answer.
sub request
{
	my ($address, $api, $version, $body) = @_;
	my $socket = IO::Socket::INET->new(PeerAddr => $address, Timeout => 10)
	  or croak "cannot connect to $address: $!";
	print {$socket} pack('N/a*', pack('nnN', $api, $version, 1) . string('guest_context tests') . $body);
	$socket->flush;
	my ($wait, $in) = (IO::Select->new($socket), '');
	until (length $in >= 4 && length $in >= 4 + unpack 'N', $in)
	{
		$wait->can_read(30) or croak "$address does not answer request $api";
		sysread($socket, $in, 65536, length $in) or croak "$address closed the connection at request $api, version $version";
	}
	return substr $in, 8;
}

# --- topics

# Metadata: { brokers => { id => address }, topics => { name => { partition => leader } } }.
# A partition without a leader has -1.
sub metadata
{
	my ($address, @topics) = @_;
	my $in = request($address, 3, 4, (@topics ? array(map { string($_) } @topics) : pack('N', 0xffffffff)) . pack('c', 0));
	my (%brokers, %topics);
	int32(\$in);
	for (get_array(\$in, sub { [ int32($_[0]), get_string($_[0]), int32($_[0]), get_string($_[0]) ] }))
	{
		$brokers{ $_->[0] } = "$_->[1]:$_->[2]";
	}
	get_string(\$in);
	int32(\$in);
	get_array(\$in,
		sub {
			my $code = int16($_[0]);
			my $name = get_string($_[0]);
			int8($_[0]);
			my %leader;
			get_array($_[0],
				sub {
					int16($_[0]);
					my $partition = int32($_[0]);
					$leader{$partition} = int32($_[0]);
					get_array($_[0], \&int32) for 1 .. 2;
					return;
				});
			$topics{$name} = \%leader if $code == 0 || $code == 5;
			return;
		});
	return { brokers => \%brokers, topics => \%topics };
}

# With $replicas, a list of brokers for each partition, the two numbers before are not looked at.
sub create_topic
{
	my ($address, $name, $partitions, $replication, $config, $replicas) = @_;
	($partitions, $replication) = (-1, -1) if $replicas;
	my $in = request($address, 19, 2, array(string($name) . pack('l>s>', $partitions, $replication)
		  . array(map { pack('N', $_) . array(map { pack 'N', $_ } @{ $replicas->[$_] }) } 0 .. $#{ $replicas // [] })
		  . array(map { string($_) . string("$config->{$_}") } sort keys %$config)) . pack('Nc', 30000, 0));
	int32(\$in);
	get_array(\$in, sub { get_string($_[0]); check(int16($_[0]), "create topic $name", get_string($_[0])) });
}

sub delete_topic
{
	my ($address, $name) = @_;
	my $in = request($address, 20, 1, array(string($name)) . pack('N', 30000));
	int32(\$in);
	get_array(\$in, sub { get_string($_[0]); check(int16($_[0]), "delete topic $name") });
}

sub create_partitions
{
	my ($address, $name, $total) = @_;
	my $in = request($address, 37, 0, array(string($name) . pack('NN', $total, 0xffffffff)) . pack('Nc', 30000, 0));
	int32(\$in);
	get_array(\$in, sub { get_string($_[0]); check(int16($_[0]), "add partitions to topic $name", get_string($_[0])) });
}

# Settings of a topic; undef is the default again. What is not named stays.
sub alter_config
{
	my ($address, $name, $config) = @_;
	my $in = request($address, 44, 0, array(pack('c', 2) . string($name)
		  . array(map { string($_) . (defined $config->{$_} ? pack('c', 0) . string("$config->{$_}") : pack('c', 1) . string(undef)) } sort keys %$config))
		  . pack('c', 0));
	int32(\$in);
	get_array(\$in, sub { check(int16($_[0]), "alter settings of topic $name", get_string($_[0])); int8($_[0]); get_string($_[0]) });
}

# Removes the records below an offset; the address is that of the leader. Returns the
# new first offset.
sub delete_records
{
	my ($address, $topic, $partition, $before) = @_;
	my $in = request($address, 21, 0, array(string($topic) . array(pack('Nq>', $partition, $before))) . pack('N', 30000));
	int32(\$in);
	my ($low) = get_array(\$in, sub { get_string($_[0]); get_array($_[0], sub { int32($_[0]); my $low = int64($_[0]);
				check(int16($_[0]), "delete records of $topic [$partition] below $before"); $low }) });
	return $low;
}

# An offset by time: -1 is the end, -2 the beginning, else the first record at or after
# that time in milliseconds (undef: none). Of committed records only: the end is then the
# last stable offset. The address is that of the leader.
sub offset_at
{
	my ($address, $topic, $partition, $time, $committed) = @_;
	my $in = request($address, 2, 2, pack('l>c', -1, $committed ? 1 : 0) . array(string($topic) . array(pack('Nq>', $partition, $time))));
	int32(\$in);
	my ($offset) = get_array(\$in, sub { get_string($_[0]); get_array($_[0], sub { int32($_[0]);
				check(int16($_[0]), "offset of $topic [$partition]"); int64($_[0]); int64($_[0]) }) });
	return $offset < 0 ? undef : $offset;
}

# Moves the leader of a partition: to the first replica, or with `unclean` to any that lives.
sub elect_leader
{
	my ($address, $topic, $partition, $unclean) = @_;
	my $in = request($address, 43, 1, pack('c', $unclean ? 1 : 0) . array(string($topic) . array(pack('N', $partition))) . pack('N', 30000));
	int32(\$in);
	check(int16(\$in), 'elect leader');
	get_array(\$in, sub { get_string($_[0]); get_array($_[0], sub { int32($_[0]); check(int16($_[0]), "elect leader of $topic [$partition]", get_string($_[0])) }) });
}

# --- groups

# What a group has committed: { topic => { partition => offset } }. Offsets have one partition here.
sub group_offsets
{
	my ($address, $group) = @_;
	my (%offsets, $code);
	for my $try (1 .. 300)
	{
		select undef, undef, undef, 0.1 if $try > 1;

		# without this topic no group has ever committed; its leader knows, once it has read it
		my $metadata = metadata($address, '__consumer_offsets');
		my $leaders = $metadata->{topics}{'__consumer_offsets'} or return {};
		my $coordinator = $metadata->{brokers}{ $leaders->{0} } or next;
		my $in = request($coordinator, 9, 2, string($group) . pack('N', 0xffffffff));
		%offsets = ();
		get_array(\$in,
			sub {
				my $topic = get_string($_[0]);
				get_array($_[0],
					sub {
						my $partition = int32($_[0]);
						$offsets{$topic}{$partition} = int64($_[0]);
						get_string($_[0]);
						check(int16($_[0]), "offset of $topic [$partition] in group $group");
						return;
					});
				return;
			});
		$code = int16(\$in);
		last unless $code == 14 || $code == 15 || $code == 16;
	}
	check($code // 15, "offsets of group $group");
	return \%offsets;
}

# --- access rules: operation is of %operation, of a topic or a group

our %operation = (all => 2, read => 3, write => 4, create => 5, delete => 6, alter => 7, describe => 8);
our %resource = (topic => 2, group => 3);

sub create_acl
{
	my ($address, $user, $kind, $name, $operation, $permission) = @_;
	my $in = request($address, 30, 1, array(pack('c', $resource{$kind}) . string($name) . pack('c', 3) . string("User:$user") . string('*')
		  . pack('cc', $operation{$operation}, $permission eq 'deny' ? 2 : 3)));
	int32(\$in);
	get_array(\$in, sub { check(int16($_[0]), "access rule for $user", get_string($_[0])) });
}

# All rules of a user on something.
sub delete_acls
{
	my ($address, $user, $kind, $name) = @_;
	my $in = request($address, 31, 1, array(pack('c', $resource{$kind}) . string($name) . pack('c', 3) . string("User:$user") . string(undef) . pack('cc', 1, 1)));
	int32(\$in);
	check(int16(\$in), "access rules of $user") if int32(\$in);
}

1;
