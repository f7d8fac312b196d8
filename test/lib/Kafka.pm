# A real Apache Kafka for TAP tests: brokers of their own, on ports of their own,
# gone when the test ends. tools/kafka.sh starts and stops them; topics, offsets, groups
# and access rules go by Kafka::Wire, records in by the helper gc_producer, out by kcat.
#
#	use Kafka;
#	my $kafka = Kafka->start;
#	$kafka->create_topic('orders', partitions => 2, config => { 'cleanup.policy' => 'compact' });
#	$kafka->produce('orders', [ [ 'k1', '{"a": 1}' ], [ 'k1', undef, { source => 'crm' }, 0, 1700000000000 ] ]);
#	is($kafka->high_watermark('orders', 0), 2);
#
# A record is [key, value, headers, partition, time], the last three optional: undef
# as key or value is null, headers are a hash or a list of pairs, without a partition the
# key decides as with Java's producer, time is in milliseconds. Keys and values are bytes.
#
# Whatever fails dies: a test that cannot have its broker has failed. test/run says in
# GC_CACHE where Kafka's jars are, and in GC_PRODUCER where the helper is.
package Kafka;

use strict;
use warnings;

use Carp;
use Cwd qw(abs_path);
use File::Basename qw(basename dirname);
use File::Path qw(make_path remove_tree);
use File::Temp qw(tempdir);
use IPC::Open2;
use Kafka::Wire;
use Time::HiRes qw(sleep time);

my $root = abs_path(dirname(__FILE__) . '/../..');
my $script = "$root/tools/kafka.sh";
my $helper = $ENV{GC_PRODUCER} // "$root/build/gc_producer";
my (@brokers, $count);
my $version;    # of all brokers of this test, undef: kafka.sh's own
my $owner = $$;

# Runs kafka.sh and returns what it prints; what it complains of goes to the test's log.
sub _script
{
	my (@command) = @_;
	local %ENV = %ENV;
	$ENV{KAFKA_VERSION} = $version if defined $version;
	open my $out, '-|', 'bash', $script, @command or croak "cannot run $script: $!";
	local $/;
	my $text = <$out> // '';
	close $out or croak "kafka.sh $command[0] failed";
	return $text;
}

# start(OPTION => VALUE, ...): a new broker, when it answers.
#	tls => 1					a listener SSL; ->ca, ->client_certificate
#	users => { name => password }		listeners SASL_PLAINTEXT, with tls SASL_SSL
#	settings => { name => value }		of the broker
#	join => $broker				a further broker of that one's cluster
#	version => '3.9.1'			another one; all brokers of a test are of one version
sub start
{
	my ($class, %option) = @_;
	my $test = basename($0, '.pl');
	my $name = $test . '_kafka' . ++$count;
	my $base = $ENV{TESTDATADIR} // tempdir('gc_kafka.XXXXXX', TMPDIR => 1, CLEANUP => !$ENV{KEEP});
	my $dir = "$base/$name";
	my @options;

	-x $helper or croak "the helper $helper is missing: make build/gc_producer, or run this test by `make tap`";
	remove_tree($dir);
	make_path($dir);
	push @options, '--tls' if $option{tls};
	push @options, map { ('--user', "$_=$option{users}{$_}") } sort keys %{ $option{users} // {} };
	push @options, map { ('--set', "$_=$option{settings}{$_}") } sort keys %{ $option{settings} // {} };
	push @options, '--join', $option{join}{dir} if $option{join};
	push @options, '--log', "$ENV{TESTLOGDIR}/$name.log" if $ENV{TESTLOGDIR};
	$version = $option{version} if $option{version};
	delete @option{qw(tls users settings join version)};
	croak 'unknown options: ' . join ' ', keys %option if %option;

	my $self = bless { dir => $dir, transactions => 0 }, $class;
	push @brokers, $self;
	_script('start', $dir, @options);
	open my $ports, '<', "$dir/ports" or croak "$dir/ports: $!";
	while (<$ports>) { $self->{address}{$1} = $2 if /^(\S+) (\S+)/ }
	$self->_read_pid;
	return $self;
}

sub _read_pid
{
	my ($self) = @_;
	open my $file, '<', "$self->{dir}/pid" or croak "$self->{dir}/pid: $!";
	($self->{pid}) = <$file> =~ /(\d+)/;
}

# host:port; of the listener PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL.
sub bootstrap { my ($self, $listener) = @_; return $self->{address}{ $listener // 'PLAINTEXT' } // croak "no listener $listener" }
sub pid { return $_[0]{pid} }
sub dir { return $_[0]{dir} }

# Files with the certificate to trust; with the certificate and the key of a client.
sub ca { return "$_[0]{dir}/ca.pem" }
sub client_certificate { return ("$_[0]{dir}/client.pem", "$_[0]{dir}/client.key") }

# --- its life

# Ends in good order; restart brings it back, with the same ports and data.
sub stop
{
	my ($self) = @_;
	delete $self->{idle};
	_script('stop', $self->{dir});
	delete $self->{pid};
}

sub restart
{
	my ($self) = @_;
	$self->stop;
	_script('again', $self->{dir});
	$self->_read_pid;
}

sub kill9
{
	my ($self) = @_;
	delete $self->{idle};
	kill 'KILL', $self->{pid} or croak "cannot kill $self->{pid}: $!";
	_wait(sub { !$self->is_running }, 'a killed broker is gone');
}

# A broker that is there and does not answer.
sub freeze { my ($self) = @_; kill 'STOP', $self->{pid} or croak "cannot stop $self->{pid}: $!" }
sub thaw { my ($self) = @_; kill 'CONT', $self->{pid} or croak "cannot continue $self->{pid}: $!" }

sub is_running
{
	my ($self) = @_;
	return 0 unless defined $self->{pid} && kill 0, $self->{pid};
	# who is dead, and not yet buried by whoever it belongs to
	open my $status, '<', "/proc/$self->{pid}/status" or return 0;
	return !grep { /^State:\s+[ZX]/ } <$status>;
}

sub _wait
{
	my ($true, $what) = @_;
	my $until = time + 30;
	until ($true->())
	{
		croak "waited 30 s in vain: $what" if time > $until;
		sleep 0.05;
	}
}

# Nothing of it is needed any more, so there is no reason to wait for a good end. Only in
# the process that started them: END runs in forked ones too.
END
{
	if ($$ == $owner)
	{
		my $status = $?;
		for (@brokers)
		{
			$_->_read_pid if !defined $_->{pid} && -e "$_->{dir}/pid";
			kill 'KILL', $_->{pid} if $_->is_running;
		}
		$? = $status;
	}
}

# --- topics

# partitions => 1, replication => 1, config => {}; or replicas => [[1, 2], ...] with the brokers of
# each partition, the first one leads. Waits until every partition has a leader.
sub create_topic
{
	my ($self, $topic, %option) = @_;
	my $partitions = $option{replicas} ? @{ $option{replicas} } : $option{partitions} // 1;
	Kafka::Wire::create_topic($self->bootstrap, $topic, $partitions, $option{replication} // 1, $option{config} // {}, $option{replicas});
	$self->_wait_for_leaders($topic, $partitions);
}

sub _wait_for_leaders
{
	my ($self, $topic, $partitions) = @_;
	_wait(sub {
		my $leader = $self->leaders($topic) or return 0;
		return $partitions == grep { $_ >= 0 } values %$leader;
	}, "topic $topic has $partitions partitions");
}

# When it returns, the topic is gone and can be made again.
sub delete_topic
{
	my ($self, $topic) = @_;
	Kafka::Wire::delete_topic($self->bootstrap, $topic);
	_wait(sub { !$self->leaders($topic) }, "topic $topic is gone");
}

# So that there are so many in all.
sub add_partitions
{
	my ($self, $topic, $total) = @_;
	Kafka::Wire::create_partitions($self->bootstrap, $topic, $total);
	$self->_wait_for_leaders($topic, $total);
}

# { partition => broker }, undef for a topic that is not there.
sub leaders
{
	my ($self, $topic) = @_;
	return Kafka::Wire::metadata($self->bootstrap, $topic)->{topics}{$topic};
}

# Asks the leader of a partition, and waits for one while there is none: after a freeze or a
# kill, as every client has to.
sub _ask_leader
{
	my ($self, $topic, $partition, $request) = @_;
	my $answer;
	_wait(sub {
		my $metadata = Kafka::Wire::metadata($self->bootstrap, $topic);
		my $leader = $metadata->{topics}{$topic}{$partition} // croak "no partition $partition of topic $topic";
		my $address = $metadata->{brokers}{$leader} or return 0;
		return 1 if eval { $answer = $request->($address); 1 };
		die $@ unless $@ =~ /error [56] /;	# as it is
		return 0;
	}, "$topic [$partition] has a leader");
	return $answer;
}

# alter_config(topic, { name => value }): undef is the default again.
sub alter_config { my ($self, $topic, $config) = @_; Kafka::Wire::alter_config($self->bootstrap, $topic, $config) }

# Trims a partition, as retention does; returns the first offset that is left.
sub delete_records
{
	my ($self, $topic, $partition, $before) = @_;
	return $self->_ask_leader($topic, $partition, sub { Kafka::Wire::delete_records($_[0], $topic, $partition, $before) });
}

sub low_watermark { my ($self, $topic, $partition) = @_; return $self->_offset($topic, $partition, -2) }
sub high_watermark { my ($self, $topic, $partition) = @_; return $self->_offset($topic, $partition, -1) }

# The end for those who read committed records: an open transaction holds it back.
sub last_stable_offset { my ($self, $topic, $partition) = @_; return $self->_offset($topic, $partition, -1, 1) }

# The first record at or after a time in milliseconds, undef without one.
sub offset_for_time { my ($self, $topic, $partition, $time) = @_; return $self->_offset($topic, $partition, $time) }

sub _offset
{
	my ($self, $topic, $partition, @how) = @_;
	$partition //= 0;
	return $self->_ask_leader($topic, $partition, sub { Kafka::Wire::offset_at($_[0], $topic, $partition, @how) });
}

# Another replica leads: the first one of the list, or with unclean => 1, where none leads, any
# that lives, whatever it has missed.
sub elect_leader
{
	my ($self, $topic, $partition, %option) = @_;
	_wait(sub { $self->leaders($topic)->{$partition} < 0 }, "$topic [$partition] has lost its leader") if $option{unclean};
	Kafka::Wire::elect_leader($self->bootstrap, $topic, $partition, $option{unclean});
}

# What a group has committed: { topic => { partition => offset } }.
sub group_offsets { my ($self, $group) = @_; return Kafka::Wire::group_offsets($self->bootstrap, $group) }

# grant('alice', topic => 'orders', 'read'): with a first rule on a topic, everybody else is out.
sub grant { my ($self, $user, $kind, $name, $operation) = @_; Kafka::Wire::create_acl($self->bootstrap, $user, $kind, $name, $operation, 'allow') }
sub deny { my ($self, $user, $kind, $name, $operation) = @_; Kafka::Wire::create_acl($self->bootstrap, $user, $kind, $name, $operation, 'deny') }
sub revoke { my ($self, $user, $kind, $name) = @_; Kafka::Wire::delete_acls($self->bootstrap, $user, $kind, $name) }

# --- records in

# produce(topic, [records], NAME => VALUE, ...) with settings of librdkafka's producer.
# Returns [partition, offset] of every record when the broker has them all.
sub produce
{
	my ($self, $topic, $records, %settings) = @_;
	my $producer = Kafka::Producer->_new($self, undef, %settings);
	my @where = $producer->_write($topic, $records)->_command('flush');
	$producer->_end;
	return @where;
}

# transaction('commit' | 'abort', topic, records) is done when it returns. With 'open' it
# returns an object to go on with: ->produce(topic, records), ->commit, ->abort, ->abandon
# (the producer dies; the broker waits for it up to transaction.timeout.ms, a setting, 600000
# here). Settings are librdkafka's, and id => the transactional id.
sub transaction
{
	my ($self, $end, $topic, $records, %settings) = @_;
	$end =~ /^(?:commit|abort|open)$/ or croak "a transaction is commit, abort or open, not $end";

	# it takes librdkafka a second to find the coordinator: who has done so is used again
	my $plain = !%settings;
	my $producer = $plain ? delete $self->{idle} : undef;
	my $id = delete $settings{id} // join '-', 'gc', $$, ++$self->{transactions};
	$producer //= Kafka::Producer->_new($self, $id, 'transaction.timeout.ms' => 600000, %settings);
	$producer->_command('begin');
	$producer->produce($topic, $records);
	return $producer if $end eq 'open';
	$producer->_finish($end);
	if ($plain) { $self->{idle} = $producer } else { $producer->_end }
	return;
}

# As Java's own producer writes them: its batches, its compression, its partitioner. Texts
# without tabs and line feeds; headers are a hash.
sub java_produce
{
	my ($self, $topic, $records, %settings) = @_;
	my @properties = map { ('--command-property', "$_=$settings{$_}") } sort keys %settings;
	my @reader = map { ('--reader-property', $_) } 'parse.key=true', 'parse.headers=true', 'null.marker=NULL', 'headers.separator=;';
	my ($out, $in);
	my $pid = open2($out, $in, 'bash', $script, 'java', 'org.apache.kafka.tools.ConsoleProducer',
		'--bootstrap-server', $self->bootstrap, '--topic', $topic, @properties, @reader);
	for (@$records)
	{
		my ($key, $value, $headers) = @$_;
		print {$in} join("\t", join(';', map { "$_:$headers->{$_}" } sort keys %{ $headers // {} }) || 'NULL', $key // 'NULL', $value // 'NULL'), "\n";
	}
	close $in;
	my $text = do { local $/; <$out> };
	waitpid $pid, 0;
	croak "Java's producer failed: $text" if $? || $text =~ /ERROR/;
}

# Any of Kafka's tools: tool('kafka.admin.ConfigCommand', '--alter', ...), which gets
# --bootstrap-server by itself. Returns what it prints. It takes seconds.
sub tool { my ($self, $class, @arguments) = @_; return _script('java', $class, '--bootstrap-server', $self->bootstrap, @arguments) }

# --- records out

# consume(topic, NAME => VALUE, ...): all records of a topic, or of partition => n, from => offset
# on, as hashes of topic, partition, offset, time, key, value, headers (list of "name=value").
# With committed => 1 only what transactions have committed. listener => 'SSL' with the settings
# that it needs goes there; others are of librdkafka's consumer. Dies when the broker has not
# answered after wait => 30 seconds.
sub consume
{
	my ($self, $topic, %option) = @_;
	my $mark = "\x01end\x02";
	my @place = defined $option{partition} ? ('-p', $option{partition}) : ();
	push @place, '-o', $option{from} // 'beginning';
	my $listener = delete $option{listener};
	my $isolation = delete $option{committed} ? 'read_committed' : 'read_uncommitted';
	delete @option{qw(partition from)};
	my $text = $self->kcat(undef, '-b', $self->bootstrap($listener), '-C', '-t', $topic, '-e', '-m', delete $option{wait} // 30, @place,
		'-f', "%p %o %T %K %S\n%k%s%h$mark",
		map { ('-X', $_) } "isolation.level=$isolation", 'fetch.wait.max.ms=50', map { "$_=$option{$_}" } sort keys %option);
	my @records;
	while (length $text)
	{
		$text =~ s/^(-?\d+) (\d+) (-?\d+) (-?\d+) (-?\d+)\n// or croak 'kcat wrote what cannot be read';
		my %record = (topic => $topic, partition => $1, offset => $2, time => $3);
		my ($key, $value) = ($4, $5);
		$record{key} = $key < 0 ? undef : substr $text, 0, $key, '';
		$record{value} = $value < 0 ? undef : substr $text, 0, $value, '';
		my $end = index $text, $mark;
		$record{headers} = [ split /,/, substr $text, 0, $end ];
		substr $text, 0, $end + length $mark, '';
		push @records, \%record;
	}
	@records = sort { $a->{partition} <=> $b->{partition} || $a->{offset} <=> $b->{offset} } @records;
	return @records;
}

# kcat with an input and arguments, PLAINTEXT unless they have -b; returns its output. Fast
# with much data: kcat("k:v\n" x 1e6, '-P', '-t', 'orders', '-K', ':', '-z', 'zstd').
sub kcat
{
	my ($self, $input, @arguments) = @_;
	unshift @arguments, '-b', $self->bootstrap unless grep { $_ eq '-b' } @arguments;
	my $file = File::Temp->new;
	print {$file} $input // '';
	$file->flush;
	my $said = File::Temp->new;
	open my $out, '-|', 'sh', '-c', 'in=$0 err=$1; shift; exec kcat "$@" <"$in" 2>"$err"', "$file", "$said", @arguments
	  or croak "cannot run kcat: $!";
	binmode $out;
	local $/;
	my $text = <$out> // '';
	close $out or croak "kcat @arguments failed: " . (<$said> // '');
	return $text;
}

# --- the helper, and what is kept of an open transaction

package Kafka::Producer;

use strict;
use warnings;

use Carp;
use IPC::Open2;
use Scalar::Util qw(weaken);

sub _new
{
	my ($class, $kafka, $id, %settings) = @_;
	my $address = $kafka->bootstrap(delete $settings{listener});
	my $self = bless { kafka => $kafka }, $class;
	weaken($self->{kafka});    # which may keep us for its next transaction
	$self->{pid} = open2($self->{out}, $self->{in}, $helper, defined $id ? ('-t', $id) : (),
		"bootstrap.servers=$address", map { "$_=$settings{$_}" } sort keys %settings);
	return $self;
}

sub _hex { my ($bytes) = @_; return defined $bytes ? 'x' . unpack 'H*', $bytes : '-' }

sub _write
{
	my ($self, $topic, $records) = @_;
	local $SIG{PIPE} = 'IGNORE';    # the answer says why
	for (@$records)
	{
		my ($key, $value, $headers, $partition, $time) = @$_;
		my @headers = ref $headers eq 'HASH' ? map { ($_, $headers->{$_}) } sort keys %$headers : @{ $headers // [] };
		print { $self->{in} } join(' ', 'r', $topic, $partition // -1, $time // -1, map { _hex($_) } $key, $value, @headers), "\n";
	}
	return $self;
}

# Returns where the records since the last command went.
sub _command
{
	my ($self, $command) = @_;
	my ($out, @where) = ($self->{out});
	local $SIG{PIPE} = 'IGNORE';
	print { $self->{in} } "$command\n";
	$self->{in}->flush;
	while (my $line = <$out>)
	{
		chomp $line;
		return @where if $line eq $command;
		croak "producer: $line" unless $line =~ /^(\d+) (-?\d+)$/;
		push @where, [ $1, $2 ];
	}
	croak "the producer has ended at $command";
}

sub _end
{
	my ($self) = @_;
	return unless $self->{pid};
	close $self->{in};
	close $self->{out};
	local $?;
	waitpid delete $self->{pid}, 0;
}

# In the transaction; returns [partition, offset] of every record.
sub produce
{
	my ($self, $topic, $records) = @_;
	my @where = $self->_write($topic, $records)->_command('flush');
	for (@where)
	{
		my ($partition, $offset) = @$_;
		$self->{last}{$topic}{$partition} = $offset if $offset > ($self->{last}{$topic}{$partition} // -1);
	}
	return @where;
}

sub commit { my ($self) = @_; $self->_finish('commit'); $self->_end }
sub abort { my ($self) = @_; $self->_finish('abort'); $self->_end }

# The broker answers before the markers are in the partitions, each an offset after our last.
sub _finish
{
	my ($self, $how) = @_;
	my $last = delete $self->{last} // {};
	$self->_command($how);
	for my $topic (keys %$last)
	{
		for my $partition (keys %{ $last->{$topic} })
		{
			Kafka::_wait(sub { $self->{kafka}->high_watermark($topic, $partition) >= $last->{$topic}{$partition} + 2 },
				"the marker of a transaction in $topic [$partition]");
		}
	}
}
sub abandon { my ($self) = @_; kill 'KILL', $self->{pid}; $self->_end }

# A test that dies with a transaction open leaves nobody behind.
sub DESTROY
{
	my ($self) = @_;
	local ($?, $@, $!);
	kill 'KILL', $self->{pid} if $self->{pid};
	$self->_end;
}

1;
