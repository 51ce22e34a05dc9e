package Bench::Part::Decode;

# One message, decoded and mapped into a row, against jansson alone

use strict;
use warnings;
use Bench;

part('decode', order => 10, run => \&run,
	about => "a message decoded and mapped, against jansson's json_loadb() alone");

sub run
{
	my (@row, @jansson, $bytes);
	my $count = setting('rows') < 1_000_000 ? setting('rows') : 1_000_000;

	heading("One message, decoded and mapped into a row, against jansson's "
		  . 'json_loadb() alone');
	foreach my $line (split /\n/, capture(program('decode'), $count, setting('rounds')))
	{
		($bytes, my @ns) = split / /, $line;
		push @row, $ns[0];
		push @jansson, $ns[1];
	}
	figure('message', [$bytes], text => 'size of a message', unit => 'bytes', format => '%.0f');
	figure('row', \@row, text => 'decode and map', unit => 'ns', format => '%.0f');
	figure('jansson', \@jansson, text => 'json_loadb', unit => 'ns', format => '%.0f');
	figure('ratio', [ map { $row[$_] / $jansson[$_] } 0 .. $#row ],
		text => 'decode and map, ratio to json_loadb', format => '%.3f', goal => '<= 0.15');
}

1;
